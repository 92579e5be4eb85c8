# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls to the admin API, and output as tables or JSON."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, Literal, NoReturn
from urllib.parse import quote

import aiohttp
import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clusterodm.admin.operations.operation import Operation
from clusterodm.admin.operations.table import COMMANDS
from clusterodm.admin.views import NodeView
from clusterodm.aio import Clock
from clusterodm.commands.ending import run_until_done
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.durations import elapsed, span
from clusterodm.core.errors import BadRequest, ClusterError, ConfigError, NodeNotFound, TaskNotFound, Unauthorized
from clusterodm.core.names import printable
from clusterodm.core.nodes import parse_address
from clusterodm.http.reasons import describe
from clusterodm.settings import Settings, load_settings

#: Seconds that a call may take.
_TIMEOUT: Final = 30.0

Url = Annotated[
    str,
    typer.Option(
        "--url",
        help="Admin address of the cluster; by default, address and password of the local settings.",
        envvar="CLUSTERODM_ADMIN_URL",
        show_envvar=True,
    ),
]
Password = Annotated[
    str,
    typer.Option(
        "--password",
        help="Password of user admin; better set in the environment.",
        envvar="CLUSTERODM_ADMIN_PASS",
        show_envvar=True,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
#: The cluster of the local settings.
DEFAULT_URL: Final = ""

screen = Console(soft_wrap=True)
_clock = Clock()


class Admin:
    """The admin API of a cluster."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    async def call(self, operation: Operation, subject: str | int = "", **parameters: Any) -> Any:
        """Carry out an operation; return its result. Raises ClusterError."""
        path = re.sub(r"{\w+}", quote(str(subject), safe=""), operation.path)
        if operation.has_body:
            content, headers = msgspec.json.encode(parameters), {"Content-Type": "application/json"}
            response = await self._call(operation.method, path, data=content, headers=headers)
        else:
            response = await self._call(operation.method, path, params=parameters)
        return msgspec.json.decode(response, type=operation.result)

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a download of any size. Raises ClusterError."""
        try:
            async with self._session.get(
                f"{self._url}/api/v1/{path}", timeout=aiohttp.ClientTimeout(total=None)
            ) as response:
                if response.status != 200:
                    _refuse(response.status, await response.read())
                yield response
        except (aiohttp.ClientError, OSError) as error:
            raise ClusterError(f"{self._url}: {describe(error)}") from None

    async def _call(self, method: str, path: str, **how: Any) -> bytes:
        try:
            async with (
                asyncio.timeout(_TIMEOUT),
                self._session.request(method, self._url + path, **how) as response,
            ):
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ClusterError(f"no cluster answers at {self._url}: {describe(error)}") from None
        if response.status != 200:
            _refuse(response.status, content)
        return content


def _refuse(status: int, content: bytes) -> NoReturn:
    try:
        text = str(msgspec.json.decode(content)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        text = f"HTTP status {status}"
    match status:
        case 401:
            raise Unauthorized("the password of admin is needed (--password or CLUSTERODM_ADMIN_PASS)")
        case 404:
            raise NodeNotFound(text) if "node" in text else TaskNotFound(text)
        case _:
            raise BadRequest(text)


@asynccontextmanager
async def admin(url: str, password: str) -> AsyncIterator[Admin]:
    """Connect to the admin API. Raises ConfigError for an invalid address."""
    if not url:
        url, password = _of_settings(load_settings({}), password)
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"invalid admin address {url}: it must look like http://127.0.0.1:10000")
    headers = {"Authorization": aiohttp.encode_basic_auth("admin", password, encoding="utf-8")} if password else {}
    async with aiohttp.ClientSession(headers={"User-Agent": PROGRAM} | headers) as session:
        yield Admin(session, url)


def _of_settings(settings: Settings, password: str) -> tuple[str, str]:
    """Return address and password of the local cluster with these settings."""
    if not settings.admin_web_port:
        raise ConfigError(
            "admin-web-port is 0: the cluster of these settings has no admin API; use --url for another one"
        )
    everywhere = settings.admin_host in ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
    host = "127.0.0.1" if everywhere else settings.admin_host
    host = f"[{host}]" if ":" in host else host
    password = password or settings.admin_pass.get_secret_value() or _stored_password(settings)
    return f"http://{host}:{settings.admin_web_port}", password


def _stored_password(settings: Settings) -> str:
    """Return the password that the cluster keeps in a file, as in a container; empty if there is none."""
    try:
        return (settings.admin_pass_file and (settings.data_dir / settings.admin_pass_file).read_text().strip()) or ""
    except (OSError, UnicodeDecodeError):
        return ""


async def find_node(api: Admin, name: str) -> NodeView:
    """Return a node by host:port, URL or its number in the list. Raises NodeNotFound."""
    nodes: list[NodeView] = await api.call(COMMANDS["node list"])
    matches = [each for each in nodes if name in (each.name, each.url, str(each.number))]
    if not matches and ":" in name:
        place = parse_address(name).place
        matches = [each for each in nodes if parse_address(each.url).place == place]
    if not matches:
        raise NodeNotFound(f"there is no node {name}")
    return matches[0]


def run(work: Any) -> Any:
    """Run the coroutine of a command."""
    return run_until_done(work)


def print_json(value: Any) -> None:
    """Print one JSON document, for scripts."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_text(text: str) -> None:
    """Print text literally, whoever wrote it."""
    for line in text.split("\n"):
        screen.print(printable(line), highlight=False, markup=False)


def print_table(heads: Iterable[str], rows: Iterable[Iterable[Any]], *, empty: str) -> None:
    """Print a table, or a sentence if it is empty. Strings are printed literally; styled cells are `Text`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        right = head.endswith(">")
        justify: Literal["right", "left"] = "right" if right else "left"
        table.add_column(head.rstrip(">"), justify=justify, overflow="fold", no_wrap=head in ("id", "node", "state"))
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(str(cell))) for cell in row))
    screen.print(table if table.row_count else empty)


def ago(at: float) -> str:
    """Return how long ago a time was."""
    return f"{span(elapsed(at, _clock()))} ago" if at else "-"
