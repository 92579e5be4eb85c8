# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may use the cluster."""

from clusterodm.auth.local import Authenticator, Grant, LocalAuthenticator

__all__ = ["Authenticator", "Grant", "LocalAuthenticator"]
