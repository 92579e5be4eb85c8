# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Load providers and authenticators by entry point, and check them against the version of their contract."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import aiohttp

from clusterodm.aio import Clock
from clusterodm.core.errors import ConfigError

#: Version that a plugin is taken to be written for if it does not declare one.
FIRST_VERSION: Final = "1.0"
_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})")


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginContext:
    """What the cluster hands to every plugin."""

    #: Shared connection pool. The cluster closes it.
    session: aiohttp.ClientSession
    clock: Clock


def load_plugin(group: str, name: str, base: type, api_version: str, *, what: str) -> Callable[..., Any]:
    """Return the class that the entry point `name` of `group` refers to. Raise ConfigError if there is none, if it
    cannot be imported, is incomplete, or was written for an incompatible version of the contract.

    `what` introduces the name in error messages, as in "unknown provider".
    """
    points = {point.name: point for point in entry_points(group=group)}
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(points))}"
        raise ConfigError(f"unknown {what} {name[:50]}; {hint}")
    where = f"{what} {name} ({points[name].value})"
    plugin = _imported(points[name], where)
    if not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise ConfigError(f"{where} is not a subclass of {base.__module__.rpartition('.')[0]}.{base.__name__}")
    check_version(getattr(plugin, "api_version", FIRST_VERSION), api_version, where)
    if missing := sorted(getattr(plugin, "__abstractmethods__", ())):
        raise ConfigError(f"{where} does not implement {', '.join(missing)}")
    return plugin


def check_version(written_for: object, offered: str, where: str) -> None:
    """Raise ConfigError unless a plugin for one version of a contract works with the offered version: the same major
    version, and no newer minor version."""
    required, actual = _VERSION.fullmatch(str(written_for)), _VERSION.fullmatch(offered)
    assert actual is not None, "MAJOR.MINOR"  # noqa: S101 - a constant of this program
    if required is None:
        raise ConfigError(f'{where} declares api_version {str(written_for)[:20]!r}; it must be like "{offered}"')
    if required[1] != actual[1] or int(required[2]) > int(actual[2]):
        raise ConfigError(
            f"{where} was written for version {required[0]} of the plugin API; this ClusterODM offers {offered}"
        )


def _imported(point: EntryPoint, where: str) -> object:
    try:
        plugin: object = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where} cannot be imported: {error}") from error
    return plugin
