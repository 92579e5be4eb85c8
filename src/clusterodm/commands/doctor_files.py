# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm doctor` on files that settings name: certificate and key, owners' tokens, secrets that all can read."""

from __future__ import annotations

import ssl
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from clusterodm.auth.tokens import read_tokens
from clusterodm.commands.finding import Finding
from clusterodm.core.errors import ConfigError
from clusterodm.settings import Settings

_DAY: Final = 86400.0
#: An expiry is worth a warning when less than this is left, or a quarter of the time for which the certificate is good.
_SOON: Final = 14 * _DAY
#: Results of OpenSSL's verification.
_NOT_YET, _EXPIRED, _NAMES = 9, 10, (62, 64)


class _Encrypted(Exception):
    """The key asks for a password."""


def secret_files(settings: Settings, config: Path | None) -> Iterator[Finding]:
    """Files with secrets in them that every user of this machine can read."""
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
    """The file of owners' tokens."""
    path = settings.tokens_file
    if path is None:
        return
    try:
        found = read_tokens(path.read_bytes())
    except OSError as error:
        yield Finding("--tokens-file", "error", f"{path} cannot be read: {error.strerror}", _readable(path))
    except ConfigError as error:
        yield Finding("--tokens-file", "error", f"{path}: {error}", "correct it; the form is in docs/tokens.md")
    else:
        if not found:
            yield Finding(
                "--tokens-file", "warning", f"{path} names nobody: every client is refused", "add owners to it"
            )
        else:
            yield Finding("--tokens-file", "ok", f"{path} has {len(found)} owners")


def _readable(path: Path) -> str:
    return f"see that {path} is there, and that the service's user may read it and enter its folders"


def certificate(settings: Settings) -> Iterator[Finding]:
    """Certificate and key as clients meet them: each is tried in a handshake of its own, in memory."""
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
        fix = f"the service asks for no password: openssl pkey -in {settings.ssl_key} -out NEW, and name NEW"
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
            "put the server's own certificate first, those of authorities after it; or name the key that belongs to it",
        )
    fix = "both are PEM: -----BEGIN CERTIFICATE----- and -----BEGIN PRIVATE KEY-----"
    return Finding("--ssl-cert", "error", f"{settings.ssl_cert} and {settings.ssl_key} cannot be used", fix)


def _handshakes(settings: Settings, server: ssl.SSLContext) -> Iterator[Finding]:
    """First with a client that trusts just this certificate, for its dates and name; then with one of this machine."""
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
        text = f"clients that trust what this machine trusts refuse it: {error.verify_message}"
        fix = (
            "if its authority is your own, clients must be given it; otherwise the certificates between are missing: "
            "name the whole chain (fullchain.pem)"
        )
        yield Finding("--ssl-cert", "warning", text, fix)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> dict[str, Any]:
    """What a client learns of the server's certificate. Raises SSLCertVerificationError when it refuses it."""
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


def _dates(settings: Settings, seen: dict[str, Any]) -> Finding:
    begin, end = (ssl.cert_time_to_seconds(str(seen[key])) for key in ("notBefore", "notAfter"))
    left = end - time.time()
    text = f"{settings.ssl_cert} is good until {time.strftime('%Y-%m-%d', time.gmtime(end))}, {left / _DAY:.0f} days"
    if left < min(_SOON, (end - begin) / 4):
        return Finding("--ssl-cert", "warning", text, "renew it; the new one is taken without a restart")
    return Finding("--ssl-cert", "ok", text)


def _refused(settings: Settings, error: ssl.SSLCertVerificationError, name: str | None) -> Finding:
    if error.verify_code == _EXPIRED:
        fix = "renew it; the new one is taken without a restart"
        return Finding("--ssl-cert", "error", f"{settings.ssl_cert} has expired", fix)
    if error.verify_code == _NOT_YET:
        fix = "wait, or set this machine's clock"
        return Finding("--ssl-cert", "error", f"{settings.ssl_cert} is not good yet", fix)
    if error.verify_code in _NAMES:
        fix = "get one with that name, or correct --public-address"
        return Finding("--ssl-cert", "error", f"{settings.ssl_cert} is not for {name} (--public-address)", fix)
    return Finding("--ssl-cert", "error", f"{settings.ssl_cert}: {error.verify_message}", "get another one")
