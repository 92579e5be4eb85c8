# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the commands for operators have in common: calls to the admin API, tables, JSON, exit codes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

import aiohttp
import msgspec
import typer
from rich.console import Console
from rich.table import Table

from clusterodm.commands.ending import run_until_done
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.durations import elapsed, span
from clusterodm.core.errors import BadRequest, ClusterError, ConfigError, NodeNotFound, TaskNotFound, Unauthorized
from clusterodm.http.reasons import describe
from clusterodm.settings import Settings, load_settings

T = TypeVar("T")

#: Seconds that a call may take.
_TIMEOUT: Final = 30.0

Url = Annotated[
    str,
    typer.Option(
        "--url",
        help="Admin address of the cluster; without one, address and password are those of the settings here.",
        envvar="CLUSTERODM_ADMIN_URL",
        show_envvar=True,
    ),
]
Password = Annotated[
    str,
    typer.Option(
        "--password",
        help="Password of admin; better in the environment.",
        envvar="CLUSTERODM_ADMIN_PASS",
        show_envvar=True,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
#: Stands for the cluster of the settings here.
DEFAULT_URL: Final = ""

screen = Console(soft_wrap=True)


class Admin:
    """The admin API of one cluster."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/") + "/api/v1/"

    async def get(self, path: str, kind: type[T], **query: Any) -> T:
        """A GET, decoded. Raises ClusterError."""
        return msgspec.json.decode(await self._call("GET", path, params=query), type=kind)

    async def send(self, method: str, path: str, kind: type[T], body: Any = None) -> T:
        """An order, decoded. Raises ClusterError."""
        how = (
            {} if body is None else {"data": msgspec.json.encode(body), "headers": {"Content-Type": "application/json"}}
        )
        return msgspec.json.decode(await self._call(method, path, **how), type=kind)

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """A GET of any size. Raises ClusterError."""
        try:
            async with self._session.get(self._url + path, timeout=aiohttp.ClientTimeout(total=None)) as response:
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
    """A connection to the admin API. Raises ConfigError for an address that is none."""
    if not url:
        url, password = _of_settings(load_settings({}), password)
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"an admin address reads http://127.0.0.1:10000, not {url}")
    headers = {"Authorization": aiohttp.encode_basic_auth("admin", password, encoding="utf-8")} if password else {}
    async with aiohttp.ClientSession(headers={"User-Agent": PROGRAM} | headers) as session:
        yield Admin(session, url)


def _of_settings(settings: Settings, password: str) -> tuple[str, str]:
    """Address and password of the cluster that runs here with these settings."""
    if not settings.admin_web_port:
        raise ConfigError(
            "admin-web-port is 0: the cluster of these settings has no admin API; another one is asked with --url"
        )
    everywhere = settings.admin_host in ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
    host = "127.0.0.1" if everywhere else settings.admin_host
    host = f"[{host}]" if ":" in host else host
    password = password or settings.admin_pass.get_secret_value() or _kept(settings)
    return f"http://{host}:{settings.admin_web_port}", password


def _kept(settings: Settings) -> str:
    """The password that the cluster of these settings keeps in a file, as in a container."""
    try:
        return (settings.admin_pass_file and (settings.data_dir / settings.admin_pass_file).read_text().strip()) or ""
    except (OSError, UnicodeDecodeError):
        return ""


def run(work: Any) -> Any:
    """Carry out a command's coroutine."""
    return run_until_done(work)


def print_json(value: Any) -> None:
    """For scripts: one JSON document on standard output."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(heads: Iterable[str], rows: Iterable[Iterable[Any]], *, empty: str) -> None:
    """For people: a table, or a sentence when there is nothing to put into it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        right = head.endswith(">")
        justify: Literal["right", "left"] = "right" if right else "left"
        table.add_column(head.rstrip(">"), justify=justify, overflow="fold", no_wrap=head in ("id", "node", "state"))
    made = [[str(cell) for cell in row] for row in rows]
    for row in made:
        table.add_row(*row)
    screen.print(table if made else empty)


def ago(at: float) -> str:
    """How long ago something was."""
    return f"{span(elapsed(at, time.time()))} ago" if at else "-"
