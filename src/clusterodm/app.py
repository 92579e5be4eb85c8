# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The composition root: builds the cluster out of its parts, runs it in one TaskGroup, shuts it down in order."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
import structlog
from aiohttp import web

from clusterodm import __version__
from clusterodm.admin import TICK, Feed, Looked, Shell, make_admin_app
from clusterodm.aio import Clock, every
from clusterodm.auth import JobTokens, make_authenticator
from clusterodm.cluster.accounts import Accounts
from clusterodm.cluster.attempts import Attempts
from clusterodm.cluster.cleaner import Cleaner
from clusterodm.cluster.collector import Collector
from clusterodm.cluster.context import Context
from clusterodm.cluster.control import Control
from clusterodm.cluster.discovery import Discovery
from clusterodm.cluster.dispatcher import Dispatcher
from clusterodm.cluster.drainer import Drainer
from clusterodm.cluster.fetcher import Fetcher
from clusterodm.cluster.importer import Importer
from clusterodm.cluster.intake import Intake
from clusterodm.cluster.janitor import Janitor
from clusterodm.cluster.notifier import Notifier
from clusterodm.cluster.registry import Description, Registry
from clusterodm.cluster.tasks import Entry, Tasks
from clusterodm.cluster.tracker import Tracker
from clusterodm.console import Consoles
from clusterodm.core.errors import DataFolderError
from clusterodm.core.nodes import NodeInfo, parse_address
from clusterodm.core.quota import parse_quota
from clusterodm.core.tasks import ON_NODE
from clusterodm.nodeodm import NodeClient, Trust
from clusterodm.observe import Metrics, logging_to
from clusterodm.proxy import make_app
from clusterodm.results import Results
from clusterodm.serving import open_admin_ports, open_ports, tls_context
from clusterodm.settings import Settings
from clusterodm.spool import Spool
from clusterodm.store import Store

_log = structlog.get_logger("clusterodm")

#: Seconds between two times that progress reaches the store, between two rounds of the janitor, between two looks at
#: nodes that leave and at lists of nodes.
_FLUSH = 5.0
_SWEEP = 60.0
_DRAIN = 5.0
_DISCOVER = 2.0
_THREADS = 32


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    context: Context
    discovery: Discovery
    #: The web application that clients talk to.
    app: web.Application
    #: The ports that were opened; the first is the plain one unless that is turned off.
    ports: list[int]
    #: Ports of the admin shell and the admin page; 0 for one that is turned off.
    shell_port: int
    admin_port: int

    @property
    def admin_url(self) -> str:
        """Where operators on this machine reach it."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def url(self) -> str:
        """Where clients on this machine reach it."""
        return f"http://127.0.0.1:{self.ports[0]}"


@asynccontextmanager
async def running_cluster(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Cluster]:
    """A cluster that works while the block runs. Raises ConfigError and DataFolderError before anything is touched."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_locked_folder(settings.data_dir))
        if settings.log_file:
            stack.enter_context(logging_to(folder / settings.log_file))
        # many uploads may wait for the disk at once, and none may keep the others from their turn
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
        tls = tls_context(settings)
        nodes = [parse_address(text) for text in settings.node]
        store = await Store.open(f"sqlite+aiosqlite:///{folder / 'clusterodm.db'}")
        stack.push_async_callback(store.close)
        session = await stack.enter_async_context(_client_session())
        jobs = JobTokens(await _own_key(store))
        parts = _build(settings, folder, store, session, jobs, clock or Clock())
        for address in nodes:
            await parts.context.registry.add(address)
        await parts.prepare()
        stack.push_async_callback(parts.context.tasks.flush)
        feed = Feed(parts.context)
        app, admin = make_app(parts.context), make_admin_app(parts.context, feed)
        await stack.enter_async_context(_running(parts.loops | {"feed": lambda: every(TICK, feed.tick, "feed")}))
        shell_port, admin_port = await stack.enter_async_context(
            open_admin_ports(admin, Shell(parts.context), settings)
        )
        ports = await stack.enter_async_context(open_ports(app, settings, tls))
        _log.info(
            "ready",
            version=__version__,
            ports=ports,
            shell_port=shell_port,
            admin_port=admin_port,
            data_dir=str(folder),
        )
        yield Cluster(parts.context, parts.discovery, app, ports, shell_port, admin_port)


@dataclass(frozen=True)
class _Parts:
    context: Context
    discovery: Discovery
    loops: dict[str, Callable[[], Any]]
    prepare: Callable[[], Any]


def _build(
    settings: Settings, folder: Path, store: Store, session: aiohttp.ClientSession, jobs: JobTokens, clock: Clock
) -> _Parts:
    client, metrics = NodeClient(session, Trust(settings.nodes_ca)), Metrics()
    authenticator = make_authenticator(settings, session)
    spool, consoles, results = (
        Spool(folder / "spool", parse_quota(settings.spool_max)),
        Consoles(folder / "console"),
        Results(folder / "results"),
    )
    registry = Registry(store, client, _shipped_description(), interval=settings.node_poll_interval, clock=clock)
    tasks = Tasks(store, clock, billed=authenticator.accounts)
    attempts = Attempts(tasks, registry, consoles, spool, metrics, max_attempts=settings.max_attempts, clock=clock)
    collector = Collector(
        tasks, registry, client, spool, results, metrics, keep=settings.results == "keep", clock=clock
    )
    drainer = Drainer(store, tasks, registry, collector, results, clock=clock)
    discovery = Discovery(registry, file=settings.nodes_file, name=settings.nodes_dns, clock=clock)
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
        metrics,
        max_sending=settings.max_sending,
        connections=settings.parallel_uploads,
        upload_speed=settings.upload_max_speed,
        webhook=lambda uuid: _callback(settings.public_address, jobs, uuid),
        ageing=settings.priority_ageing * 60,
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
    accounts = Accounts(store, tasks, authenticator, clock=clock)
    cleaner = Cleaner(store, tasks, registry, client, clock=clock)
    notifier = Notifier(store, tasks, metrics, allow_private=settings.webhook_allow_private)
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
        clock=clock,
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
            max_unpacked=settings.zipurl_max_size,
            accounts=accounts,
            job_token=lambda uuid: "" if authenticator.open else jobs.token(uuid),
            clock=clock,
        ),
        control=Control(tasks, registry, client, spool, consoles, results, clock=clock),
        attempts=attempts,
        dispatcher=dispatcher,
        collector=collector,
        drainer=drainer,
        tracker=tracker,
        consoles=consoles,
        spool=spool,
        results=results,
        client=client,
        authenticator=authenticator,
        jobs=jobs,
        metrics=metrics,
        started_at=clock(),
    )
    metrics.registry.register(Looked(context))

    def free_slot(entry: Entry) -> None:
        if entry.attempt and entry.task.phase not in ON_NODE:
            registry.release(entry.attempt.node_id, entry.task.uuid)

    async def prepare() -> None:
        await spool.drop_parts()
        await spool.measure()
        await registry.load()
        await Importer(store, registry, folder, clock).run()
        await discovery.look_at_file()
        await tasks.load()
        tasks.watch(free_slot)
        await dispatcher.recover()
        tracker.recover()
        fetcher.recover()
        await cleaner.recover()
        await notifier.recover()
        await accounts.recover()

    loops = {
        "registry": registry.run,
        "dispatcher": dispatcher.run,
        "tracker": tracker.run,
        "fetcher": fetcher.run,
        "cleaner": cleaner.run,
        "notifier": notifier.run,
        "accounts": accounts.run,
        "janitor": lambda: every(_SWEEP, janitor.sweep, "janitor"),
        "room": janitor.make_room,
        "drainer": lambda: every(_DRAIN, drainer.sweep, "drainer"),
        "discovery": lambda: every(_DISCOVER, discovery.sweep, "discovery"),
        "nodes": lambda: every(_SWEEP, registry.forget_removed, "registry"),
        "flush": lambda: every(_FLUSH, tasks.flush, "flush"),
    }
    return _Parts(context, discovery, loops, prepare)


def _callback(public_address: str, jobs: JobTokens, uuid: str) -> str:
    """The webhook of a task that nodes get; empty while nobody knows where they reach us."""
    query = urlencode({"task": uuid, "key": jobs.callback_key(uuid)})
    return f"{public_address}/commit?{query}" if public_address else ""


async def _own_key(store: Store) -> str:
    """The key of this cluster, made at its first start."""
    key: str | None = await store.value("key")
    if key is None:
        key = JobTokens.new_key()
        await store.keep_value("key", key)
    return key


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


@contextmanager
def _locked_folder(folder: Path) -> Iterator[Path]:
    """The data folder, made when it is missing and held by this process alone. Raises DataFolderError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
