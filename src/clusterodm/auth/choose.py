# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The configured authenticator, instantiated by its entry point."""

from __future__ import annotations

from typing import Final

import aiohttp

from clusterodm.aio import Clock
from clusterodm.auth.base import API_VERSION, Authenticator
from clusterodm.plugins import PluginContext, load_plugin
from clusterodm.settings import Settings

GROUP: Final = "clusterodm.authenticators"


def make_authenticator(settings: Settings, session: aiohttp.ClientSession, clock: Clock) -> Authenticator:
    """Instantiate the authenticator that `--cloud-provider` names. Raise ConfigError."""
    plugin = load_plugin(GROUP, settings.cloud_provider, Authenticator, API_VERSION, what="cloud-provider")
    authenticator: Authenticator = plugin(settings, PluginContext(session=session, clock=clock))
    return authenticator
