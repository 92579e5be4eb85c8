# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ports: the sockets, TLS, and how they are opened and closed in order."""

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
from clusterodm.proxy.context import CONTEXT
from clusterodm.proxy.fastpath import FastPath, FastPathProtocol
from clusterodm.settings import Settings

#: Bytes of a request body that wait for us at most (twice this), for each connection.
_READ_BUFFER: Final = 256 << 10
#: Seconds after which the kernel cuts an operator who does not take what we send.
_STALLED: Final = 120.0
#: What sockets for clients are for.
_PLAIN: Final = "plain"
_SECURE: Final = "secure"
#: Seconds between two looks whether the certificate was renewed.
_RENEW: Final = 5.0

_log = structlog.get_logger("serving")


@dataclass(frozen=True)
class Sockets:
    """Listening sockets that were opened by a parent and are shared with its other workers, by what they are for."""

    opened: dict[str, socket.socket] = field(default_factory=dict)
    #: Which of the workers this is.
    worker: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Sockets:
        """All sockets that the settings ask for. Raises ConfigError."""
        opened = {
            name: listen(settings.host, port, settings.upload_idle_timeout) for name, port in _client_ports(settings)
        }
        if settings.admin_cli_port:
            opened["shell"] = listen(settings.admin_host, settings.admin_cli_port, _STALLED)
        if settings.admin_web_port:
            opened["web"] = listen(settings.admin_host, settings.admin_web_port, _STALLED)
        return cls(opened)

    def get(self, what: str, host: str, port: int, stalled: float) -> socket.socket:
        """The shared socket, else one of our own. Raises ConfigError."""
        return self.opened.get(what) or listen(host, port, stalled)

    def close(self) -> None:
        """Close them in this process."""
        for each in self.opened.values():
            each.close()


@asynccontextmanager
async def open_ports(
    app: web.Application, settings: Settings, renewal: Renewal | None, sockets: Sockets, at_once: asyncio.Event
) -> AsyncIterator[list[int]]:
    """Answer on all configured ports while the block runs; then let requests end within the grace time, unless all is
    to end at once."""
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=1.0, read_bufsize=_READ_BUFFER, max_field_size=16 << 10
    )
    await runner.setup()
    server = runner.server
    assert server is not None, "set up"  # noqa: S101 - after setup()
    connections, loop = app[CONNECTIONS], asyncio.get_running_loop()
    front = partial(FastPathProtocol, FastPath(app[CONTEXT], connections), server)
    try:
        listening = []
        for name, port in _client_ports(settings):
            opened = sockets.get(name, settings.host, port, settings.upload_idle_timeout)
            secure = renewal.tls if renewal is not None and name == _SECURE else None
            listening.append(await loop.create_server(front, sock=opened, ssl=secure))
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
    """Ports for clients: with a certificate and no port of its own for it, there is no plain one."""
    if not settings.tls:
        return [(_PLAIN, settings.port)]
    if not settings.secure_port:
        return [(_SECURE, settings.port)]
    return [(_PLAIN, settings.port), (_SECURE, settings.secure_port)]


def listen(host: str, port: int, stalled: float) -> socket.socket:
    """A listening socket. A client that does not take what we send for `stalled` seconds is cut by the kernel."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=host == "::")
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be opened: {error.strerror}") from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stalled * 1000))
    return listening


class Renewal:
    """Takes a renewed certificate for new connections; those that are open go on with the old one."""

    def __init__(self, tls: ssl.SSLContext, settings: Settings) -> None:
        self.tls = tls
        self._settings = settings
        self._used = _written(settings)

    async def watch(self) -> None:
        """For ever: take it when its files change. A pair that does not fit together (it may be half renewed) is tried
        again at the next look."""
        while True:
            await asyncio.sleep(_RENEW)
            if _written(self._settings) != self._used:
                self.renew()

    def renew(self) -> None:
        """Take the files as they are now, if they can be used."""
        now = _written(self._settings)
        try:
            # a pair that does not fit must not spoil the one in use
            _load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), self._settings)
            _load(self.tls, self._settings)
        except (OSError, ssl.SSLError) as error:
            _log.error("the new certificate cannot be used, the old one stays", error=str(error))
        else:
            self._used = now
            _log.info("the certificate was renewed")


def _load(tls: ssl.SSLContext, settings: Settings) -> None:
    """Load certificate and key. A key with a passphrase is refused: nobody is there to be asked."""
    tls.load_cert_chain(settings.ssl_cert, settings.ssl_key, password="")  # nosec B106


def _written(settings: Settings) -> list[int]:
    """When the certificate and its key were written; 0 for one that is not there."""
    written = []
    for path in (settings.ssl_cert, settings.ssl_key):
        try:
            written.append(Path(path).stat().st_mtime_ns)
        except OSError:
            written.append(0)
    return written


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS side of the ports for clients; None without a certificate. Raises ConfigError."""
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
    """The shell and the admin page while the block runs; their ports, 0 for one that is turned off."""
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
