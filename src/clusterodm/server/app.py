# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The composition root: builds the cluster out of its parts, runs it in one TaskGroup, shuts it down in order."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import structlog
from aiohttp import web

from clusterodm import __version__
from clusterodm.admin.shell import Shell
from clusterodm.admin.web import make_admin_app
from clusterodm.aio import Clock, unless
from clusterodm.auth import JobTokens
from clusterodm.cluster.controller import Loops, Scope
from clusterodm.cluster.pairing import after_copy, pair, require_new
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.nodes import parse_address
from clusterodm.files.folder import locked_folder, note_ports
from clusterodm.observe import access_logged_to, logging_to
from clusterodm.proxy.routes import make_app
from clusterodm.server.assembly import ClusterIdentity, build
from clusterodm.server.context import Context
from clusterodm.server.restoring import DATABASE, settle
from clusterodm.server.serving import Renewal, Sockets, open_admin_ports, open_ports, tls_context
from clusterodm.settings import Settings
from clusterodm.store import Store, require_whole

_log = structlog.get_logger("clusterodm")

_THREADS = 32


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    context: Context
    #: All its loops.
    loops: Loops
    #: The web application for clients.
    app: web.Application
    #: Open ports; the first is the plain one unless that is disabled.
    ports: list[int]
    #: Ports of the admin shell and the admin page; 0 if disabled.
    shell_port: int
    admin_port: int
    #: Reloads the certificate and the tokens file; an invalid one is logged and changes nothing.
    reload: Callable[[], Awaitable[None]]

    @property
    def admin_url(self) -> str:
        """Return the URL for operators on this machine."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def url(self) -> str:
        """Return the URL for clients on this machine."""
        settings = self.context.settings
        return f"{'https' if settings.tls and not settings.secure_port else 'http'}://127.0.0.1:{self.ports[0]}"


@asynccontextmanager
async def running_cluster(
    settings: Settings,
    *,
    clock: Clock | None = None,
    sockets: Sockets | None = None,
    at_once: asyncio.Event | None = None,
    adopt: bool = False,
) -> AsyncIterator[Cluster]:
    """Run a cluster while the block runs, on sockets that a parent opened, if given. Once `at_once` is set, its end
    waits for no request. `adopt` pairs a data folder and a database that do not belong together. Raises ConfigError
    and DataFolderError before anything is changed."""
    clock = clock or Clock()
    sockets, at_once = sockets or Sockets(), at_once or asyncio.Event()
    async with AsyncExitStack() as stack:
        shared = settings.database_url.get_secret_value()
        folder = stack.enter_context(locked_folder(settings.data_dir, shared=bool(shared)))
        stack.enter_context(_log_files(folder, settings, sockets, shared=bool(shared)))
        # many uploads may wait for the disk at once, and none may starve the others
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
        if warning := await settle(folder, shared):
            _log.warning(warning)
        tls = tls_context(settings)
        renewal = Renewal(tls, settings) if tls is not None else None
        nodes = [parse_address(text) for text in settings.node]
        store = await _opened_store(shared, folder, adopt=adopt)
        stack.push_async_callback(store.close)
        session = await stack.enter_async_context(_client_session())
        identity = await pair(folder, store, clock, adopt=adopt)
        own = ClusterIdentity(
            JobTokens(await _stored_or_new(store, "key", JobTokens.new_key)),
            await _stored_or_new(store, "cluster", _new_id),
        )
        parts = build(settings, folder, store, session, own, clock)
        stack.push_async_callback(parts.close)
        for address in nodes:
            await parts.context.registry.add(address)
        stack.push_async_callback(parts.context.replicas.leave)
        await parts.schedule.prepare()
        await after_copy(folder, identity, parts.context.tasks, parts.context.uploads, parts.context.strays, clock)
        stack.push_async_callback(parts.context.tasks.flush)
        stack.push_async_callback(parts.context.autoscaler.keep_costs)
        app, admin = make_app(parts.context), make_admin_app(parts.context, parts.feed)
        await stack.enter_async_context(_running(parts.schedule.loops))
        stack.push_async_callback(unless, at_once, parts.settle)
        shell_port, admin_port = await stack.enter_async_context(
            open_admin_ports(admin, Shell(parts.context), settings, sockets)
        )
        ports = await stack.enter_async_context(open_ports(app, settings, renewal, sockets, at_once))
        note_ports(folder, settings.host, ports)
        _log.info(
            "ready",
            version=__version__,
            ports=ports,
            shell_port=shell_port,
            admin_port=admin_port,
            data_dir=str(folder),
        )

        async def reload() -> None:
            if renewal is not None:
                renewal.renew()
            await parts.context.authenticator.reload()

        yield Cluster(parts.context, parts.schedule.loops, app, ports, shell_port, admin_port, reload)


async def _opened_store(url: str, folder: Path, *, adopt: bool) -> Store:
    """Open the shared database at `url`, else the one in the data folder, which must be undamaged, or new like it."""
    if not url and (folder / DATABASE).exists():
        await asyncio.to_thread(require_whole, folder / DATABASE)
    elif not url and not adopt:
        require_new(folder)
    return await Store.open(url or f"sqlite+aiosqlite:///{folder / DATABASE}")


async def _stored_or_new(store: Store, name: str, make: Callable[[], str]) -> str:
    """Return a stored value, generated at the first start."""
    value: str | None = await store.value(name)
    return value if value is not None else await store.first_value(name, make())


def _new_id() -> str:
    return secrets.token_hex(4)


@asynccontextmanager
async def _client_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open one connection pool for all nodes, with a limit per host: a hung node cannot use up all connections."""
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=64, keepalive_timeout=4, ttl_dns_cache=30)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": PROGRAM}
    ) as session:
        yield session


@asynccontextmanager
async def _running(loops: Loops) -> AsyncIterator[None]:
    """Run all loops while the block runs; one that fails cancels the block."""
    async with asyncio.TaskGroup() as group:
        work = group.create_task(loops.run(Scope.REPLICA))
        try:
            yield
        finally:
            work.cancel()


@contextmanager
def _log_files(folder: Path, settings: Settings, sockets: Sockets, *, shared: bool) -> Iterator[None]:
    """Write the configured log files while the block runs, each process its own: several must not rotate the same."""
    worker = f"-{sockets.worker}" if settings.workers > 1 else ""
    suffix = f"-{socket.gethostname()}-{settings.port}{worker}" if shared else ""
    with ExitStack() as stack:
        for name, logged_to in ((settings.access_log, access_logged_to), (settings.log_file, logging_to)):
            if name not in ("", "-"):
                stack.enter_context(logged_to((folder / name).with_stem(f"{(folder / name).stem}{suffix}")))
        yield
