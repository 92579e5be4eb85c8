# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ports: sockets, TLS, and their orderly opening and closing."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from clusterodm.admin.shell import Shell
from clusterodm.aio import unless
from clusterodm.core.errors import ConfigError
from clusterodm.http.connections import CONNECTIONS
from clusterodm.http.kit import KIT
from clusterodm.proxy.context import CONTEXT
from clusterodm.proxy.fastpath import FastPath, FastPathProtocol
from clusterodm.settings import Settings

#: Bytes of a request body that are buffered for each connection (twice this at most).
_READ_BUFFER: Final = 256 << 10
#: Seconds after which the kernel cuts an operator's connection whose client reads nothing.
_STALLED: Final = 120.0
#: Names of the sockets for clients.
_PLAIN: Final = "plain"
_SECURE: Final = "secure"
#: Seconds between two checks for a renewed certificate.
_RENEW: Final = 5.0

_log = structlog.get_logger("serving")


@dataclass(frozen=True)
class Sockets:
    """Listening sockets by name, opened by a parent process and shared with its other workers."""

    opened: dict[str, socket.socket] = field(default_factory=dict)
    #: The number of this worker.
    worker: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Sockets:
        """Open all sockets of the settings. Raises ConfigError."""
        opened = {
            name: listen(settings.host, port, settings.upload_idle_timeout) for name, port in _client_ports(settings)
        }
        if settings.admin_cli_port:
            opened["shell"] = listen(settings.admin_host, settings.admin_cli_port, _STALLED)
        if settings.admin_web_port:
            opened["web"] = listen(settings.admin_host, settings.admin_web_port, _STALLED)
        return cls(opened)

    def get(self, what: str, host: str, port: int, stalled: float) -> socket.socket:
        """Return the shared socket of that name, else a new one. Raises ConfigError."""
        return self.opened.get(what) or listen(host, port, stalled)

    def close(self) -> None:
        """Close the sockets in this process."""
        for each in self.opened.values():
            each.close()


@asynccontextmanager
async def open_ports(
    app: web.Application, settings: Settings, renewal: Renewal | None, sockets: Sockets, at_once: asyncio.Event
) -> AsyncIterator[list[int]]:
    """Serve on all configured ports while the block runs; then drain requests within the grace time, unless `at_once`
    is set."""
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=1.0, read_bufsize=_READ_BUFFER, max_field_size=16 << 10
    )
    await runner.setup()
    server = runner.server
    assert server is not None, "set up"  # noqa: S101 - after setup()
    connections, loop = app[CONNECTIONS], asyncio.get_running_loop()
    fast = partial(FastPathProtocol, FastPath(app[CONTEXT], connections), server)
    factory = fast if app[KIT].fast_paths else server
    try:
        listening = []
        for name, port in _client_ports(settings):
            opened = sockets.get(name, settings.host, port, settings.upload_idle_timeout)
            secure = renewal.tls if renewal is not None and name == _SECURE else None
            listening.append(await loop.create_server(factory, sock=opened, ssl=secure))
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(connections.close_silent(server, settings.connection_idle_timeout))
            renew = group.create_task(renewal.watch()) if renewal is not None else None
            yield [each.sockets[0].getsockname()[1] for each in listening]
            connections.ending = True
            await unless(at_once, partial(asyncio.sleep, settings.shutdown_delay))
            for each in listening:
                each.close()
            connections.close_waiting()
            await unless(at_once, partial(connections.drained, settings.shutdown_grace))
            if at_once.is_set():
                connections.cut(server)
            watch.cancel()
            if renew is not None:
                renew.cancel()
    finally:
        await runner.cleanup()


def _client_ports(settings: Settings) -> list[tuple[str, int]]:
    """Return the ports for clients by name: with a certificate and no port of its own for it, there is no plain one."""
    if not settings.tls:
        return [(_PLAIN, settings.port)]
    if not settings.secure_port:
        return [(_SECURE, settings.port)]
    return [(_PLAIN, settings.port), (_SECURE, settings.secure_port)]


def listen(host: str, port: int, stalled: float) -> socket.socket:
    """Open a listening socket. The kernel cuts a client that reads nothing for `stalled` seconds."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=host == "::")
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be opened: {error.strerror}") from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stalled * 1000))
    return listening


class Renewal:
    """Loads a renewed certificate for new connections; open ones keep the old one."""

    def __init__(self, tls: ssl.SSLContext, settings: Settings) -> None:
        self.tls = tls
        self._settings = settings
        self._used = _written(settings)

    async def watch(self) -> None:
        """Load the certificate whenever its files change, until canceled. A pair that does not match (it may be half
        renewed) is tried again at the next check."""
        while True:
            await asyncio.sleep(_RENEW)
            if _written(self._settings) != self._used:
                self.renew()

    def renew(self) -> None:
        """Load the files as they are now, if they can be used."""
        now = _written(self._settings)
        try:
            # a pair that does not match must not spoil the one in use
            _load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), self._settings)
            _load(self.tls, self._settings)
        except (OSError, ssl.SSLError) as error:
            _log.error("renewed certificate cannot be used, keeping the old one", error=str(error))
        else:
            self._used = now
            _log.info("certificate renewed")


def _load(tls: ssl.SSLContext, settings: Settings) -> None:
    """Load certificate and key. A key with a passphrase is refused: there is no prompt."""
    tls.load_cert_chain(settings.ssl_cert, settings.ssl_key, password="")  # nosec B106


def _written(settings: Settings) -> list[int]:
    """Return when the certificate and its key were written; 0 for a missing file."""
    written = []
    for path in (settings.ssl_cert, settings.ssl_key):
        try:
            written.append(Path(path).stat().st_mtime_ns)
        except OSError:
            written.append(0)
    return written


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context of the ports for clients; None without a certificate. Raises ConfigError."""
    if not settings.tls:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        _load(context, settings)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificate or key cannot be used: {error.strerror or error}") from None
    return context


@asynccontextmanager
async def open_admin_ports(
    app: web.Application, shell: Shell, settings: Settings, sockets: Sockets
) -> AsyncIterator[tuple[int, int]]:
    """Serve the shell and the admin page while the block runs; yield their ports, 0 for one that is off."""
    async with AsyncExitStack() as stack:
        yield await _open_shell(stack, shell, settings, sockets), await _open_web(stack, app, settings, sockets)


async def _open_shell(stack: AsyncExitStack, shell: Shell, settings: Settings, sockets: Sockets) -> int:
    if not settings.admin_cli_port:
        return 0
    listening = sockets.get("shell", settings.admin_host, settings.admin_cli_port, _STALLED)
    server = await asyncio.start_server(shell.serve, sock=listening)
    stack.callback(server.close)
    return int(listening.getsockname()[1])


async def _open_web(stack: AsyncExitStack, app: web.Application, settings: Settings, sockets: Sockets) -> int:
    if not settings.admin_web_port:
        return 0
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, sockets.get("web", settings.admin_host, settings.admin_web_port, _STALLED)).start()
    return int(runner.addresses[0][1])
