# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which providers: read from the autoscaler's file, found by entry point, so that others can bring their own."""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from clusterodm.aio import Clock
from clusterodm.core.errors import ConfigError
from clusterodm.observe import Metrics
from clusterodm.providers.base import Provider
from clusterodm.providers.bounded import BoundedProvider
from clusterodm.providers.bucket import Bucket
from clusterodm.providers.config import read_file

#: Entry points of this group are called with an entry of the file and the client session.
GROUP: Final = "clusterodm.providers"


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All providers in the order in which they are tried, and the limits over them."""

    providers: dict[str, BoundedProvider] = {}
    max_hourly_cost: float | None = None
    max_monthly_cost: float | None = None

    def bucket(self, provider: str) -> Bucket | None:
        """Where the nodes of a provider put their results."""
        found = self.providers.get(provider)
        return found.bucket if found is not None else None

    def takes(self) -> list[int]:
        """Files of one task that each size of machine takes, smallest first."""
        return sorted({offering.max_images for provider in self.providers.values() for offering in provider.offerings})


def make_fleet(path: Path | None, session: aiohttp.ClientSession, metrics: Metrics, clock: Clock) -> Fleet:
    """The providers of a file; none without one. Raises ConfigError."""
    if path is None:
        return Fleet()
    file = read_file(path)
    kinds = {point.name: point for point in entry_points(group=GROUP)}
    providers: dict[str, BoundedProvider] = {}
    for entry in file.entries:
        kind = entry.get("provider")
        if not isinstance(kind, str) or kind not in kinds:
            near = difflib.get_close_matches(str(kind), kinds, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(kinds))}"
            raise ConfigError(f"{path}: unknown provider {str(kind)[:50]}{hint}")
        made: Provider = kinds[kind].load()(entry, session)
        if made.config.label in providers:
            raise ConfigError(f"{path}: two providers are called {made.config.label}; give them a name each")
        providers[made.config.label] = BoundedProvider(made, metrics, clock)
    return Fleet(providers=providers, max_hourly_cost=file.max_hourly_cost, max_monthly_cost=file.max_monthly_cost)
