# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm doctor`: find problems of an installation, and say how to fix them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Final, Literal

import aiohttp
import typer
from rich.text import Text

from clusterodm.aio import Clock
from clusterodm.commands.doctor_database import check_database
from clusterodm.commands.doctor_files import certificate, secret_files, tokens
from clusterodm.commands.doctor_nodes import TIMEOUT, Known, check_node, known_nodes
from clusterodm.commands.doctor_splitmerge import check_split_jobs
from clusterodm.commands.finding import Finding
from clusterodm.commands.remote import AsJson, print_json, print_table, run
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import ConfigError, ProviderError, Throttled
from clusterodm.core.names import printable
from clusterodm.core.nodes import NodeAddress
from clusterodm.core.quota import parse_quota
from clusterodm.core.splitmerge import unusable
from clusterodm.files.folder import in_use, owner_of
from clusterodm.http.reasons import describe
from clusterodm.nodeodm import Trust
from clusterodm.observe import Metrics
from clusterodm.providers import make_fleet
from clusterodm.settings import Settings, load_settings

_NOT_SET: Final = (
    "not set: split-merge jobs are given the address that their client used, which nodes on other hosts must reach, too"
)


def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", help="JSON file of settings.", envvar="CLUSTERODM_CONFIG", show_envvar=True),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Data folder.")] = None,
    json: AsJson = False,
) -> None:
    """Check settings, ports, disk, clock, nodes and providers; exit code 1 if there is an error."""
    run(_doctor(config, data_dir, json))


async def _doctor(config: Path | None, data_dir: Path | None, json: bool) -> None:
    results = [finding async for finding in findings(config, data_dir)]
    if json:
        print_json(results)
    else:
        print_table(("", "checked", "result"), [_row(each) for each in results], empty="")
    if any(each.verdict == "error" for each in results):
        raise typer.Exit(1)


def _row(finding: Finding) -> tuple[Text, ...]:
    colour = {"ok": "green", "warning": "yellow", "error": "red"}[finding.verdict]
    text = Text("\n".join(map(printable, finding.text.split("\n"))))
    if finding.fix:
        text.append(f"\n→ {printable(finding.fix)}", "dim")
    return Text(finding.verdict, colour), Text(printable(finding.what)), text


async def findings(config: Path | None, data_dir: Path | None) -> AsyncIterator[Finding]:
    """Yield the results of all checks."""
    try:
        settings = load_settings({"data_dir": data_dir}, config=config)
    except ConfigError as error:
        yield Finding("settings", "error", str(error), "correct it; docs/settings.md has all settings")
        return
    yield Finding("settings", "ok", f"{config or 'defaults and environment'}")
    for finding in (*secret_files(settings, config), *tokens(settings), *certificate(settings)):
        yield finding
    runs = in_use(settings.data_dir)
    yield _folder(settings, runs=runs)
    async for finding in check_database(settings):
        yield finding
    yield _disk(settings)
    for name in ("port", "secure_port", "admin_cli_port", "admin_web_port"):
        if port := getattr(settings, name):
            host = settings.admin_host if name.startswith("admin") else settings.host
            yield _port(name.replace("_", "-"), host, port, runs=runs)
    trust = Trust()
    try:
        trust = Trust(settings.nodes_ca)
    except ConfigError as error:
        yield Finding("--nodes-ca", "error", str(error), "name a file of certificates: -----BEGIN CERTIFICATE-----")
    connector = aiohttp.TCPConnector(limit=20)
    async with aiohttp.ClientSession(connector=connector, headers={"User-Agent": PROGRAM}) as session:
        nodes: list[Known] = []
        async for finding in known_nodes(settings, nodes):
            yield finding
        addresses = [each.address for each in nodes]
        checked = await asyncio.gather(*(check_node(session, trust, each) for each in nodes))
        for finding in (*checked, *await check_split_jobs(settings, addresses)):
            yield finding
        async for finding in _providers(session, settings):
            yield finding
        yield await _public(session, settings, addresses, runs=runs)


def _folder(settings: Settings, *, runs: bool) -> Finding:
    folder = settings.data_dir.resolve()
    if runs:
        return Finding("data folder", "ok", f"{folder}, used by a running cluster")
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        fix = f"it belongs to {owner_of(nearest)}: run this as the user of the service, or choose another --data-dir"
        return Finding("data folder", "error", f"{nearest} is not writable", fix)
    text = f"{folder}, not in use" if folder.exists() else f"{folder} will be created"
    return Finding("data folder", "ok", text)


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir.resolve()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(nearest)
    room = parse_quota(settings.spool_max).room(disk_total=usage.total, disk_free=usage.free, held=0)
    text = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free, room for {max(0, room) / 1e9:.1f} GB of uploads"
    if room >= 10e9:
        return Finding("disk", "ok", text)
    fix = "free disk space, or raise --spool-max"
    return Finding("disk", "error" if room <= 0 else "warning", text, fix)


def _port(name: str, host: str, port: int, *, runs: bool) -> Finding:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return Finding(f"--{name} {port}", "ok", "free")
    except OSError as error:
        if runs and error.errno == errno.EADDRINUSE:
            return Finding(f"--{name} {port}", "ok", "in use, apparently by the running cluster")
        fix = f"find the process that uses it (ss -ltnp 'sport = :{port}'), or choose another --{name}"
        return Finding(f"--{name} {port}", "error", f"cannot be opened on {host}: {error.strerror}", fix)


async def _providers(session: aiohttp.ClientSession, settings: Settings) -> AsyncIterator[Finding]:
    """Check keys, images and names at providers of machines."""
    try:
        fleet = make_fleet(settings.asr, session, Metrics(), Clock())
    except ConfigError as error:
        yield Finding("--asr", "error", str(error), "correct the file; docs/machines.md lists all keys")
        return
    for provider in fleet.providers.values():
        try:
            await provider.check()
        except ProviderError as error:
            level: Literal["warning", "error"] = "warning" if isinstance(error, Throttled) else "error"
            fix = "correct its entry in the file of --asr, or the resources that it names at the provider"
            yield Finding(f"provider {provider.name}", level, str(error), fix)
        else:
            yield Finding(
                f"provider {provider.name}", "ok", f"{len(provider.offerings)} offerings, first {provider.offerings[0]}"
            )
        await provider.close()


async def _public(
    session: aiohttp.ClientSession, settings: Settings, nodes: list[NodeAddress], *, runs: bool
) -> Finding:
    """Check that the address which nodes call back leads to this cluster, as far as this machine can tell."""
    address = settings.public_address
    what = f"--public-address {address}".strip()
    hosts = [node.host for node in nodes] or ["elsewhere"] * bool(settings.asr)
    fix = "set it to a URL under which nodes reach this cluster, such as http://maps.example:3000"
    if why := unusable(address or "http://localhost", hosts):
        return Finding(what, "error", why, fix) if address else Finding(what, "warning", _NOT_SET, fix)
    if not address:
        return Finding(what, "ok", "not set")
    if not runs:
        return Finding(what, "warning", "not checked: the cluster is not running", "repeat this while it is running")
    try:
        async with asyncio.timeout(TIMEOUT), session.get(f"{address}/info") as response:
            content = await response.read()
        status = response.status
        reached = status == 401 or b'"taskQueueCount"' in content
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return Finding(what, "error", f"nodes and split-merge jobs cannot reach it: {describe(error)}", fix)
    if reached:
        return Finding(what, "ok", "answers")
    return Finding(what, "error", f"another server answers there (HTTP status {status})", fix)
