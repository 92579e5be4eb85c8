# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm doctor`: looks for what is wrong with an installation, and says what to do about it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import aiohttp
import msgspec
import typer

from clusterodm.aio import Clock
from clusterodm.commands.remote import AsJson, print_json, print_table, run
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import ClusterError, ConfigError, NodeError, ProviderError, StoreDown, Throttled
from clusterodm.core.membership import parse_nodes_file
from clusterodm.core.nodes import NodeAddress, parse_address
from clusterodm.core.quota import parse_quota
from clusterodm.core.splitmerge import unusable
from clusterodm.folder import in_use
from clusterodm.nodeodm import NodeClient, Trust
from clusterodm.observe import Metrics
from clusterodm.providers import make_fleet
from clusterodm.reasons import describe
from clusterodm.settings import Settings, load_settings
from clusterodm.store import ask_version

#: Seconds that the clock of a node may differ from ours.
_SKEW: Final = 60.0
#: The oldest version of the node API that works.
_OLDEST: Final = (1, 5, 1)
_TIMEOUT: Final = 10.0
_NOT_SET: Final = (
    "not set: split-merge jobs are given the address that their client used, which nodes on other hosts must reach, too"
)


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    what: str
    verdict: Literal["ok", "warning", "error"]
    text: str


def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", help="JSON file of settings.", envvar="CLUSTERODM_CONFIG", show_envvar=True),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Data folder.")] = None,
    json: AsJson = False,
) -> None:
    """Look for what is wrong: settings, ports, disk, clock, nodes; exit code 1 when something is."""
    run(_doctor(config, data_dir, json))


async def _doctor(config: Path | None, data_dir: Path | None, json: bool) -> None:
    found = [finding async for finding in findings(config, data_dir)]
    if json:
        print_json(found)
    else:
        colours = {"ok": "green", "warning": "yellow", "error": "red"}
        rows = [(f"[{colours[each.verdict]}]{each.verdict}[/]", each.what, each.text) for each in found]
        print_table(("", "what", "found"), rows, empty="")
    if any(each.verdict == "error" for each in found):
        raise typer.Exit(1)


async def findings(config: Path | None, data_dir: Path | None) -> AsyncIterator[Finding]:
    """Everything that was looked at, one by one."""
    try:
        settings = load_settings({"data_dir": data_dir}, config=config)
    except ConfigError as error:
        yield Finding("settings", "error", str(error))
        return
    yield Finding("settings", "ok", f"{config or 'defaults and environment'}")
    runs = in_use(settings.data_dir)
    yield _folder(settings, runs=runs)
    if settings.database_url.get_secret_value():
        yield await _database(settings)
    yield _disk(settings)
    for name in ("port", "secure_port", "admin_cli_port", "admin_web_port"):
        if port := getattr(settings, name):
            host = settings.admin_host if name.startswith("admin") else settings.host
            yield _port(name.replace("_", "-"), host, port, runs=runs)
    trust = Trust()
    try:
        trust = Trust(settings.nodes_ca)
    except ConfigError as error:
        yield Finding("nodes-ca", "error", str(error))
    connector = aiohttp.TCPConnector(limit=20)
    async with aiohttp.ClientSession(connector=connector, headers={"User-Agent": PROGRAM}) as session:
        for finding in await asyncio.gather(*(_node(session, trust, address) for address in _addresses(settings))):
            yield finding
        async for finding in _providers(session, settings):
            yield finding
        yield await _public(session, settings, runs=runs)


async def _database(settings: Settings) -> Finding:
    try:
        version = await ask_version(settings.database_url.get_secret_value())
    except StoreDown as error:
        return Finding("database", "error", str(error))
    return Finding("database", "ok", f"PostgreSQL {version} answers")


def _folder(settings: Settings, *, runs: bool) -> Finding:
    folder = settings.data_dir.resolve()
    if runs:
        return Finding("data folder", "ok", f"{folder}, used by a running cluster")
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        return Finding("data folder", "error", f"{nearest} cannot be written")
    text = f"{folder}, no cluster runs on it" if folder.exists() else f"{folder} will be made"
    return Finding("data folder", "ok", text)


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir.resolve()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(nearest)
    room = parse_quota(settings.spool_max).room(disk_total=usage.total, disk_free=usage.free, held=0)
    text = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free, room for {max(0, room) / 1e9:.1f} GB of uploads"
    return Finding("disk", "error" if room <= 0 else "warning" if room < 10e9 else "ok", text)


def _port(name: str, host: str, port: int, *, runs: bool) -> Finding:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return Finding(f"--{name} {port}", "ok", "free")
    except OSError as error:
        if runs and isinstance(error, OSError) and error.errno == 98:
            return Finding(f"--{name} {port}", "ok", "used, by the running cluster as it seems")
        return Finding(f"--{name} {port}", "error", f"cannot be opened on {host}: {error.strerror}")


def _addresses(settings: Settings) -> list[NodeAddress]:
    found = [parse_address(text) for text in settings.node]
    for path in (settings.nodes_file, settings.data_dir / "nodes.json"):
        if path is not None and path.exists():
            try:
                found += [entry.address for entry in parse_nodes_file(path.read_bytes())]
            except ClusterError:
                continue
    return list(dict.fromkeys(found))


async def _node(session: aiohttp.ClientSession, trust: Trust, address: NodeAddress) -> Finding:
    """A node from here: whether it answers, its version, its clock."""
    what = f"node {address}"
    try:
        client = NodeClient(session, trust)
        info = await client.info(address, seconds=_TIMEOUT)
    except NodeError as error:
        return Finding(what, "error", str(error))
    try:
        old = tuple(int(part) for part in info.version.split(".")[:3]) < _OLDEST
    except ValueError:
        old = True
    text = f"{info.engine} {info.engine_version}, API {info.version}, {info.max_parallel_tasks} slots"
    if old:
        return Finding(what, "error", f"{text}: too old, at least {'.'.join(map(str, _OLDEST))} is needed")
    skew = await _skew(client, address)
    if abs(skew) > _SKEW:
        return Finding(what, "warning", f"{text}; its clock differs from ours by {skew:.0f} s")
    return Finding(what, "ok", text)


async def _providers(session: aiohttp.ClientSession, settings: Settings) -> AsyncIterator[Finding]:
    """Providers of machines: whether keys, images and names are good."""
    try:
        fleet = make_fleet(settings.asr, session, Metrics(), Clock())
    except ConfigError as error:
        yield Finding("asr", "error", str(error))
        return
    for provider in fleet.providers.values():
        try:
            await provider.check()
        except ProviderError as error:
            level: Literal["warning", "error"] = "warning" if isinstance(error, Throttled) else "error"
            yield Finding(f"provider {provider.name}", level, str(error))
        else:
            yield Finding(
                f"provider {provider.name}", "ok", f"{len(provider.ladder)} rungs, first {provider.ladder[0]}"
            )
        await provider.close()


async def _skew(client: NodeClient, address: NodeAddress) -> float:
    try:
        async with asyncio.timeout(_TIMEOUT), client.open(address, "/info", {}) as response:
            said = parsedate_to_datetime(response.headers["Date"])
    except (NodeError, TimeoutError, KeyError, ValueError):
        return 0.0
    return said.timestamp() - time.time()


async def _public(session: aiohttp.ClientSession, settings: Settings, *, runs: bool) -> Finding:
    """The address that nodes call back: it must lead here. From here that is the best guess at what they see."""
    address = settings.public_address
    what = f"--public-address {address}".strip()
    hosts = [node.host for node in _addresses(settings)] or ["elsewhere"] * bool(settings.asr)
    if why := unusable(address or "http://localhost", hosts):
        return Finding(what, "error", why) if address else Finding(what, "warning", _NOT_SET)
    if not address:
        return Finding(what, "ok", "not set")
    if not runs:
        return Finding(what, "warning", "no cluster runs, so it cannot be tried")
    try:
        async with asyncio.timeout(_TIMEOUT), session.get(f"{address}/info") as response:
            content = await response.read()
        status = response.status
        known = status == 401 or b'"taskQueueCount"' in content
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return Finding(what, "error", f"nodes and split-merge jobs cannot reach it: {describe(error)}")
    if known:
        return Finding(what, "ok", "answers")
    return Finding(what, "error", f"something else answers there ({status})")
