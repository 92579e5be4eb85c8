# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The composition root: builds the cluster out of its parts, runs it in one TaskGroup, shuts it down in order."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import structlog
from aiohttp import web

from clusterodm import __version__
from clusterodm.aio import Clock, every
from clusterodm.auth import LocalAuthenticator
from clusterodm.cluster.attempts import Attempts
from clusterodm.cluster.cleaner import Cleaner
from clusterodm.cluster.collector import Collector
from clusterodm.cluster.control import Control
from clusterodm.cluster.dispatcher import Dispatcher
from clusterodm.cluster.fetcher import Fetcher
from clusterodm.cluster.importer import Importer
from clusterodm.cluster.intake import Intake
from clusterodm.cluster.janitor import Janitor
from clusterodm.cluster.notifier import Notifier
from clusterodm.cluster.registry import Description, Registry
from clusterodm.cluster.tasks import Entry, Tasks
from clusterodm.cluster.tracker import Tracker
from clusterodm.console import Consoles
from clusterodm.core.errors import ConfigError, DataFolderError
from clusterodm.core.nodes import NodeInfo, parse_address
from clusterodm.core.quota import parse_quota
from clusterodm.core.tasks import ON_NODE
from clusterodm.nodeodm import NodeClient
from clusterodm.proxy import make_app
from clusterodm.proxy.connections import CONNECTIONS
from clusterodm.proxy.context import Context
from clusterodm.results import Results
from clusterodm.settings import Settings
from clusterodm.spool import Spool
from clusterodm.store import Store

_log = structlog.get_logger("clusterodm")

#: Seconds between two times that progress reaches the store, and between two rounds of the janitor.
_FLUSH = 5.0
_THREADS = 32
#: Bytes of a request body that wait for us at most (twice this), for each connection.
_READ_BUFFER = 256 << 10
_SWEEP = 60.0


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    context: Context
    #: The web application that clients talk to.
    app: web.Application
    #: The ports that were opened; the first is the plain one unless that is turned off.
    ports: list[int]

    @property
    def url(self) -> str:
        """Where clients on this machine reach it."""
        return f"http://127.0.0.1:{self.ports[0]}"


@asynccontextmanager
async def running_cluster(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Cluster]:
    """A cluster that works while the block runs. Raises ConfigError and DataFolderError before anything is touched."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_locked_folder(settings.data_dir))
        # many uploads may wait for the disk at once, and none may keep the others from their turn
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
        tls = _tls_context(settings)
        nodes = [parse_address(text) for text in settings.node]
        store = await Store.open(f"sqlite+aiosqlite:///{folder / 'clusterodm.db'}")
        stack.push_async_callback(store.close)
        session = await stack.enter_async_context(_client_session())
        parts = _build(settings, folder, store, session, clock or Clock())
        for address in nodes:
            await parts.context.registry.add(address)
        await parts.prepare()
        stack.push_async_callback(parts.context.tasks.flush)
        await stack.enter_async_context(_running(parts.loops))
        app = make_app(parts.context)
        ports = await stack.enter_async_context(_open_ports(app, settings, tls))
        _log.info("ready", version=__version__, ports=ports, data_dir=str(folder))
        yield Cluster(parts.context, app, ports)


@dataclass(frozen=True)
class _Parts:
    context: Context
    loops: dict[str, Callable[[], Any]]
    prepare: Callable[[], Any]


def _build(settings: Settings, folder: Path, store: Store, session: aiohttp.ClientSession, clock: Clock) -> _Parts:
    client = NodeClient(session)
    spool, consoles, results = (
        Spool(folder / "spool", parse_quota(settings.spool_max)),
        Consoles(folder / "console"),
        Results(folder / "results"),
    )
    registry = Registry(store, client, _shipped_description(), interval=settings.node_poll_interval, clock=clock)
    tasks = Tasks(store, clock)
    attempts = Attempts(tasks, registry, consoles, spool, max_attempts=settings.max_attempts, clock=clock)
    collector = Collector(tasks, registry, client, spool, results, keep=settings.results == "keep")
    tracker = Tracker(
        tasks,
        registry,
        attempts,
        collector,
        consoles,
        client,
        interval=settings.task_poll_interval,
        lost_after=settings.node_lost_after,
        clock=clock,
    )
    dispatcher = Dispatcher(
        tasks,
        registry,
        attempts,
        spool,
        consoles,
        client,
        max_sending=settings.max_sending,
        connections=settings.parallel_uploads,
        upload_speed=settings.upload_max_speed,
        webhook=f"{settings.public_address}/commit" if settings.public_address else "",
        clock=clock,
    )
    fetcher = Fetcher(
        tasks,
        spool,
        max_size=settings.zipurl_max_size,
        max_files=settings.max_files,
        allow_private=settings.zipurl_allow_private,
        clock=clock,
    )
    cleaner = Cleaner(store, tasks, registry, client, clock=clock)
    notifier = Notifier(store, tasks, session)
    janitor = Janitor(
        store,
        tasks,
        spool,
        consoles,
        results,
        stale_uploads_hours=settings.stale_uploads_timeout,
        keep_finished_hours=settings.keep_finished,
        clock=clock,
    )
    context = Context(
        settings=settings,
        store=store,
        tasks=tasks,
        registry=registry,
        intake=Intake(
            tasks,
            spool,
            lambda: registry.options,
            splitmerge=not settings.no_splitmerge,
            flood_limit=settings.flood_limit,
            max_files=settings.max_files,
            clock=clock,
        ),
        control=Control(tasks, registry, client, spool, consoles, results, clock=clock),
        collector=collector,
        tracker=tracker,
        consoles=consoles,
        spool=spool,
        results=results,
        client=client,
        authenticator=LocalAuthenticator(settings.token.get_secret_value()),
    )

    def free_slot(entry: Entry) -> None:
        if entry.attempt and entry.task.phase not in ON_NODE:
            registry.release(entry.attempt.node_id, entry.task.uuid)

    async def prepare() -> None:
        await spool.drop_parts()
        await spool.measure()
        await registry.load()
        await Importer(store, registry, folder, clock).run()
        await tasks.load()
        tasks.watch(free_slot)
        await dispatcher.recover()
        tracker.recover()
        fetcher.recover()
        await cleaner.recover()
        await notifier.recover()

    loops = {
        "registry": registry.run,
        "dispatcher": dispatcher.run,
        "tracker": tracker.run,
        "fetcher": fetcher.run,
        "cleaner": cleaner.run,
        "notifier": notifier.run,
        "janitor": lambda: every(_SWEEP, janitor.sweep, "janitor"),
        "room": janitor.make_room,
        "flush": lambda: every(_FLUSH, tasks.flush, "flush"),
    }
    return _Parts(context, loops, prepare)


def _shipped_description() -> Description:
    """The options of a NodeODM that we ship, for as long as no node was ever seen."""
    content = files("clusterodm").joinpath("nodeodm-options.json").read_bytes()
    return Description(NodeInfo(engine="odm"), msgspec.json.decode(content))


@asynccontextmanager
async def _client_session() -> AsyncIterator[aiohttp.ClientSession]:
    """One connection pool for all nodes; a limit for each, so that a hung node cannot take all connections."""
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=64, keepalive_timeout=4, ttl_dns_cache=30)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@asynccontextmanager
async def _running(loops: dict[str, Callable[[], Any]]) -> AsyncIterator[None]:
    """Run all loops while the block runs; one that dies takes the block down with it."""

    async def run_all() -> None:
        async with asyncio.TaskGroup() as group:
            for name, loop in loops.items():
                group.create_task(loop(), name=name)

    async with asyncio.TaskGroup() as group:
        work = group.create_task(run_all())
        try:
            yield
        finally:
            work.cancel()


@asynccontextmanager
async def _open_ports(app: web.Application, settings: Settings, tls: ssl.SSLContext | None) -> AsyncIterator[list[int]]:
    """Answer on all configured ports while the block runs; then let requests end within the grace time."""
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=1.0, read_bufsize=_READ_BUFFER, max_field_size=16 << 10
    )
    await runner.setup()
    try:
        plain = _listening(settings.host, settings.port, settings.upload_idle_timeout)
        sites = [web.SockSite(runner, plain)]
        if tls is not None:
            secure = _listening(settings.host, settings.secure_port, settings.upload_idle_timeout)
            sites.append(web.SockSite(runner, secure, ssl_context=tls))
        for site in sites:
            await site.start()
        connections = app[CONNECTIONS]
        async with asyncio.TaskGroup() as group:
            server = runner.server
            assert server is not None, "set up"  # noqa: S101 - after setup()
            watch = group.create_task(connections.close_silent(server, settings.connection_idle_timeout))
            yield [address[1] for address in runner.addresses]
            for site in sites:
                await site.stop()
            await connections.drained(settings.shutdown_grace)
            watch.cancel()
    finally:
        await runner.cleanup()


def _listening(host: str, port: int, stalled: float) -> socket.socket:
    """A listening socket. A client that does not take what we send for `stalled` seconds is cut by the kernel."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=host == "::")
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be opened: {error.strerror}") from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stalled * 1000))
    return listening


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.secure_port:
        return None
    if not settings.ssl_cert or not settings.ssl_key:
        raise ConfigError("--secure-port needs --ssl-cert and --ssl-key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.ssl_cert, settings.ssl_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificate or key cannot be used: {error.strerror or error}") from None
    return context


@contextmanager
def _locked_folder(folder: Path) -> Iterator[Path]:
    """The data folder, made when it is missing and held by this process alone. Raises DataFolderError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DataFolderError(f"the data folder {folder} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode(errors="replace").strip() or "?"
            raise DataFolderError(
                f"the data folder {folder.resolve()} is used by another clusterodm (process {holder}); "
                "stop it or choose another --data-dir"
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield folder
    finally:
        os.close(file)
