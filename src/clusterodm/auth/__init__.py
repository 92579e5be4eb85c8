# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may use the cluster, and how much of it."""

from clusterodm.auth.base import SHARED_OWNER, Authenticator, AuthInfo, Grant
from clusterodm.auth.choose import make_authenticator
from clusterodm.auth.jobs import Job, JobTokens, submodel_owner

__all__ = [
    "SHARED_OWNER",
    "AuthInfo",
    "Authenticator",
    "Grant",
    "Job",
    "JobTokens",
    "make_authenticator",
    "submodel_owner",
]
