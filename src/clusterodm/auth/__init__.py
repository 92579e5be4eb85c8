# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Authenticators. `__all__` is the contract for authenticators outside of this package (docs/plugins.md); nothing here
knows tasks, nodes or machines."""

from clusterodm.aio import Clock
from clusterodm.auth.base import API_VERSION, SHARED_OWNER, Authenticator, AuthInfo, Grant, digest_of
from clusterodm.auth.choose import make_authenticator as make_authenticator
from clusterodm.auth.jobs import Job as Job
from clusterodm.auth.jobs import JobTokens as JobTokens
from clusterodm.auth.jobs import submodel_owner as submodel_owner
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import BadRequest, ConfigError, ServiceDown
from clusterodm.core.limits import Limits
from clusterodm.plugins import PluginContext
from clusterodm.settings import Settings

# The names imported `as` themselves are the cluster's own and may change with any release.
__all__ = [
    "API_VERSION",
    "SHARED_OWNER",
    "AuthInfo",
    "Authenticator",
    "Backoff",
    "BadRequest",
    "Clock",
    "ConfigError",
    "Grant",
    "Limits",
    "PluginContext",
    "ServiceDown",
    "Settings",
    "digest_of",
]
