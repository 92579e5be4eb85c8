# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which authenticator: by name, found by entry point, so that others can bring their own."""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points
from typing import Final

import aiohttp

from clusterodm.auth.base import Authenticator
from clusterodm.core.errors import ConfigError
from clusterodm.settings import Settings

#: Entry points of this group are called with the settings and the client session.
GROUP: Final = "clusterodm.authenticators"


def make_authenticator(settings: Settings, session: aiohttp.ClientSession) -> Authenticator:
    """The authenticator that `--cloud-provider` names. Raises ConfigError."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    name = settings.cloud_provider
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(found))}"
        raise ConfigError(f"unknown cloud-provider {name}{hint}")
    made: Authenticator = found[name].load()(settings, session)
    return made
