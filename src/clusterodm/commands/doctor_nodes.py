# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm doctor` on nodes of all origins: settings, files, a DNS name, the database."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from clusterodm.aio import Clock
from clusterodm.commands.finding import Finding
from clusterodm.core.errors import ClusterError, NodeError, StoreDown, TokenRejected
from clusterodm.core.membership import parse_nodes_file
from clusterodm.core.nodes import NodeAddress, NodeRecord, parse_address
from clusterodm.nodeodm import NodeClient, Trust
from clusterodm.settings import Settings
from clusterodm.store import ask_nodes

#: Seconds by which the clock of a node may differ from this machine's.
_SKEW: Final = 60.0
#: The oldest version of the node API that is supported.
_OLDEST: Final = (1, 5, 1)
TIMEOUT: Final = 10.0


class Known(msgspec.Struct, frozen=True):
    """A node and its origin."""

    address: NodeAddress
    origin: str
    #: Why it accepts no new tasks; then it may be switched off.
    closed: str = ""


async def known_nodes(settings: Settings, nodes: list[Known]) -> AsyncIterator[Finding]:
    """Collect all nodes of the cluster, each once; yield findings on the lists of them."""
    nodes += [Known(parse_address(text), "--node") for text in settings.node]
    for finding in (
        *_from_files(settings, nodes),
        *await _from_dns(settings, nodes),
        *await _from_database(settings, nodes),
    ):
        yield finding
    by_address = {each.address: each for each in reversed(nodes)}
    nodes[:] = [each for each in nodes if by_address[each.address] is each]


def _from_files(settings: Settings, nodes: list[Known]) -> Iterator[Finding]:
    for what, path in (("--nodes-file", settings.nodes_file), ("nodes.json", settings.data_dir / "nodes.json")):
        if path is None or (what == "nodes.json" and not path.exists()):
            continue
        fix = "correct it: the format of nodes.json, or one host:port per line"
        try:
            listed = parse_nodes_file(path.read_bytes())
        except FileNotFoundError:
            yield Finding(what, "warning", f"there is no {path}: it adds no node", "create it, or remove the setting")
        except OSError as error:
            fix = "check that the service's user can read it and enter its folders"
            yield Finding(what, "error", f"{path} cannot be read: {error.strerror}", fix)
        except ClusterError as error:
            yield Finding(what, "error", f"{path}: {error}", fix)
        else:
            nodes += [Known(each.address, what) for each in listed]
            yield Finding(what, "ok", f"{path} names {len(listed)} nodes")


async def _from_dns(settings: Settings, nodes: list[Known]) -> list[Finding]:
    if not settings.nodes_dns:
        return []
    name = parse_address(settings.nodes_dns)
    try:
        async with asyncio.timeout(TIMEOUT):
            loop = asyncio.get_running_loop()
            answers = await loop.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or "no answer in time"
        fix = f"check that it has addresses: getent ahosts {name.host}"
        return [Finding("--nodes-dns", "error", f"{name.host} cannot be looked up: {why}", fix)]
    hosts = dict.fromkeys(str(address[0]) for *_, address in answers)
    nodes += [Known(msgspec.structs.replace(name, host=host), "--nodes-dns") for host in hosts]
    return [Finding("--nodes-dns", "ok", f"{name.host} has {len(hosts)} addresses")]


async def _from_database(settings: Settings, nodes: list[Known]) -> list[Finding]:
    """Add nodes of operators, leases and machines, which only the database has."""
    url = database_to_read(settings)
    if not url:
        return []
    try:
        records = await ask_nodes(url)
    except StoreDown as error:
        return [Finding("nodes of the database", "warning", str(error), "see the findings about the database")]
    now = Clock()()
    nodes += [Known(each.address, _origin(each), each.closed(now)) for each in records]
    return []


def database_to_read(settings: Settings) -> str:
    """Return the URL of the database, read-only for a file; empty if there is none."""
    file = settings.data_dir / "clusterodm.db"
    if url := settings.database_url.get_secret_value():
        return url
    return f"sqlite+aiosqlite:///file:{_quoted(file)}?mode=ro&uri=true" if file.exists() else ""


def _quoted(path: Path) -> str:
    return path.resolve().as_uri().removeprefix("file://")


def _origin(record: NodeRecord) -> str:
    return f"database, {record.origin.value}"


async def check_node(session: aiohttp.ClientSession, trust: Trust, node: Known) -> Finding:
    """Check that a node answers, its version and its clock."""
    address = node.address
    what = f"node {address} ({node.origin})"
    client = NodeClient(session, trust)
    try:
        info = await client.info(address, seconds=TIMEOUT)
    except NodeError as error:
        if node.closed:
            return Finding(
                what,
                "warning",
                f"{error}; it is {node.closed}",
                f"if it is gone for good: clusterodm node remove {address}",
            )
        return Finding(what, "error", str(error), _fix(error, address))
    try:
        old = tuple(int(part) for part in info.version.split(".")[:3]) < _OLDEST
    except ValueError:
        old = True
    text = f"{info.engine} {info.engine_version}, API {info.version}, {info.max_parallel_tasks} slots"
    if old:
        text = f"{text}: too old, at least {'.'.join(map(str, _OLDEST))} is required"
        return Finding(what, "error", text, "upgrade the node")
    skew = await _skew(client, address)
    if abs(skew) > _SKEW:
        return Finding(
            what,
            "warning",
            f"{text}; its clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}",
            "synchronize the clocks (NTP)",
        )
    return Finding(what, "ok", text)


def _fix(error: NodeError, address: NodeAddress) -> str:
    """Return how to fix a node that does not answer as expected."""
    text = str(error)
    if isinstance(error, TokenRejected):
        return "add the token that it was started with: http://HOST:PORT/?token=..."
    if "certificate is not trusted" in text:
        return "set --nodes-ca to the authority of its certificate"
    if "certificate is for another name" in text:
        return "use the name in its certificate"
    if "does not speak HTTPS" in text:
        return "put http:// in front of it"
    if "looked up" in text:
        return f"check that the name resolves on this machine: getent hosts {address.host}"
    return f"check that it is running and no firewall is in the way: curl {address.url}/info"


async def _skew(client: NodeClient, address: NodeAddress) -> float:
    try:
        async with asyncio.timeout(TIMEOUT), client.open(address, "/info", {}) as response:
            date = parsedate_to_datetime(response.headers["Date"])
    except (NodeError, TimeoutError, KeyError, ValueError):
        return 0.0
    return date.timestamp() - Clock()()
