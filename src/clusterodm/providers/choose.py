# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The configured providers: entries of the autoscaler's file, each instantiated by its entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from clusterodm.aio import Clock
from clusterodm.core.errors import ConfigError
from clusterodm.observe import Metrics
from clusterodm.plugins import PluginContext, load_plugin
from clusterodm.providers.base import API_VERSION, Provider
from clusterodm.providers.bounded import BoundedProvider
from clusterodm.providers.bucket import Bucket
from clusterodm.providers.config import read_file

GROUP: Final = "clusterodm.providers"


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All providers in order of preference, and the cost limits over them."""

    providers: dict[str, BoundedProvider] = {}
    max_hourly_cost: float | None = None
    max_monthly_cost: float | None = None

    def bucket(self, provider: str) -> Bucket | None:
        """Return the bucket into which nodes of a provider put their results."""
        bounded = self.providers.get(provider)
        return bounded.bucket if bounded is not None else None


def make_provider(entry: dict[str, Any], context: PluginContext) -> Provider:
    """Instantiate the provider of an entry. Raise ConfigError."""
    plugin = load_plugin(GROUP, str(entry.get("provider")), Provider, API_VERSION, what="provider")
    provider: Provider = plugin(entry, context)
    return provider


def make_fleet(path: Path | None, session: aiohttp.ClientSession, metrics: Metrics, clock: Clock) -> Fleet:
    """Instantiate the providers of a file; none without a file. Raise ConfigError."""
    if path is None:
        return Fleet()
    file, context = read_file(path), PluginContext(session=session, clock=clock)
    providers: dict[str, BoundedProvider] = {}
    for entry in file.entries:
        try:
            provider = make_provider(entry, context)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        if provider.config.label in providers:
            raise ConfigError(f"{path}: two providers are called {provider.config.label}; give each a name")
        providers[provider.config.label] = BoundedProvider(provider, metrics, clock)
    return Fleet(providers=providers, max_hourly_cost=file.max_hourly_cost, max_monthly_cost=file.max_monthly_cost)
