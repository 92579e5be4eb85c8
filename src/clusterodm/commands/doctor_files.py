# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm doctor` on files that settings name: certificate and key, owners' tokens, world-readable secrets."""

from __future__ import annotations

import ssl
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from clusterodm.aio import Clock
from clusterodm.auth.tokens import read_tokens
from clusterodm.commands.finding import Finding
from clusterodm.core.errors import ConfigError
from clusterodm.settings import Settings

_DAY: Final = 86400.0
#: Warn of an expiry when less than this is left, or a quarter of the validity if that is shorter.
_SOON: Final = 14 * _DAY
#: Results of OpenSSL's verification.
_NOT_YET, _EXPIRED, _NAMES = 9, 10, (62, 64)


class _Encrypted(Exception):
    """The key is encrypted."""


def secret_files(settings: Settings, config: Path | None) -> Iterator[Finding]:
    """Find files with secrets that every user of this machine can read."""
    named = {
        "settings": config,
        "--ssl-key": Path(settings.ssl_key) if settings.ssl_key else None,
        "--tokens-file": settings.tokens_file,
        "--asr": settings.asr,
        "--nodes-file": settings.nodes_file,
    }
    for what, path in named.items():
        if path is not None and path.is_file() and path.stat().st_mode & stat.S_IROTH:
            yield Finding(what, "warning", f"{path} can be read by every user of this machine", f"chmod o-rwx {path}")


def tokens(settings: Settings) -> Iterator[Finding]:
    """Check the file of owners' tokens."""
    path = settings.tokens_file
    if path is None:
        return
    try:
        owners = read_tokens(path.read_bytes())
    except OSError as error:
        yield Finding("--tokens-file", "error", f"{path} cannot be read: {error.strerror}", _readable(path))
    except ConfigError as error:
        yield Finding("--tokens-file", "error", f"{path}: {error}", "correct it; docs/tokens.md describes the format")
    else:
        if not owners:
            yield Finding(
                "--tokens-file", "warning", f"{path} names no owner: every client is refused", "add owners to it"
            )
        else:
            yield Finding("--tokens-file", "ok", f"{path} has {len(owners)} owners")


def _readable(path: Path) -> str:
    return f"check that {path} exists, and that the service's user can read it and enter its folders"


def certificate(settings: Settings) -> Iterator[Finding]:
    """Check certificate and key by handshakes in memory."""
    if not settings.ssl_cert and not settings.ssl_key:
        return
    for flag, file in (("--ssl-cert", settings.ssl_cert), ("--ssl-key", settings.ssl_key)):
        if not file:
            yield Finding(flag, "error", "not set", "HTTPS needs both --ssl-cert and --ssl-key")
            return
        try:
            Path(file).read_bytes()
        except OSError as error:
            yield Finding(flag, "error", f"{file} cannot be read: {error.strerror}", _readable(Path(file)))
            return
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(settings.ssl_cert, settings.ssl_key, password=_refuse)
    except _Encrypted:
        fix = f"decrypt it: openssl pkey -in {settings.ssl_key} -out NEW, and use NEW"
        yield Finding("--ssl-key", "error", f"{settings.ssl_key} is encrypted", fix)
    except ssl.SSLError as error:
        yield _unusable(settings, error)
    else:
        yield from _handshakes(settings, server)


def _refuse() -> str:
    raise _Encrypted


def _unusable(settings: Settings, error: ssl.SSLError) -> Finding:
    if error.reason == "KEY_VALUES_MISMATCH":
        return Finding(
            "--ssl-cert",
            "error",
            f"the first certificate of {settings.ssl_cert} does not belong to the key {settings.ssl_key}",
            "put the server's own certificate first, then those of authorities; or use the key that belongs to it",
        )
    fix = "both must be PEM: -----BEGIN CERTIFICATE----- and -----BEGIN PRIVATE KEY-----"
    return Finding("--ssl-cert", "error", f"{settings.ssl_cert} and {settings.ssl_key} cannot be used", fix)


def _handshakes(settings: Settings, server: ssl.SSLContext) -> Iterator[Finding]:
    """Connect with a client that trusts only this certificate (dates and name), then with this machine's defaults."""
    split = urlsplit(settings.public_address)
    name = split.hostname if split.scheme == "https" else None
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(settings.ssl_cert)
    usual = ssl.create_default_context()
    for client in (trusting, usual):
        client.check_hostname = name is not None
    try:
        yield _dates(settings, handshake(server, trusting, name))
    except ssl.SSLCertVerificationError as error:
        yield _refused(settings, error, name)
        return
    try:
        handshake(server, usual, name)
    except ssl.SSLCertVerificationError as error:
        text = f"clients with the trust store of this machine refuse it: {error.verify_message}"
        fix = (
            "install a private authority on clients; otherwise intermediate certificates are missing: use the whole "
            "chain (fullchain.pem)"
        )
        yield Finding("--ssl-cert", "warning", text, fix)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> dict[str, Any]:
    """Return the server's certificate as the client sees it. Raises SSLCertVerificationError if it is refused."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(down, up, server_hostname=name)
    called = server.wrap_bio(up, down, server_side=True)
    for _ in range(20):
        with suppress(ssl.SSLWantReadError):
            caller.do_handshake()
            return caller.getpeercert() or {}
        with suppress(ssl.SSLWantReadError):
            called.do_handshake()
    return {}


def _dates(settings: Settings, certificate: dict[str, Any]) -> Finding:
    begin, end = (ssl.cert_time_to_seconds(str(certificate[key])) for key in ("notBefore", "notAfter"))
    remaining = end - Clock()()
    text = (
        f"{settings.ssl_cert} is valid until {time.strftime('%Y-%m-%d', time.gmtime(end))}, {remaining / _DAY:.0f} days"
    )
    if remaining < min(_SOON, (end - begin) / 4):
        return Finding("--ssl-cert", "warning", text, "renew it; the new one is loaded without a restart")
    return Finding("--ssl-cert", "ok", text)


def _refused(settings: Settings, error: ssl.SSLCertVerificationError, name: str | None) -> Finding:
    if error.verify_code == _EXPIRED:
        fix = "renew it; the new one is loaded without a restart"
        return Finding("--ssl-cert", "error", f"{settings.ssl_cert} has expired", fix)
    if error.verify_code == _NOT_YET:
        fix = "wait, or correct this machine's clock"
        return Finding("--ssl-cert", "error", f"{settings.ssl_cert} is not valid yet", fix)
    if error.verify_code in _NAMES:
        fix = "get a certificate for that name, or correct --public-address"
        return Finding("--ssl-cert", "error", f"{settings.ssl_cert} is not for {name} (--public-address)", fix)
    return Finding("--ssl-cert", "error", f"{settings.ssl_cert}: {error.verify_message}", "get another certificate")
