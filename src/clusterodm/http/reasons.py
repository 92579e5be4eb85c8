# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Connection errors in words: never with a URL, which may hold a token or a signature."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from typing import Final

import aiohttp

#: OpenSSL's reasons if the peer does not speak TLS.
_PLAIN: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
#: Verification results about the name (X509_V_ERR_HOSTNAME_MISMATCH, ..._IP_ADDRESS_MISMATCH).
_NAMES: Final = (62, 64)
CLOSED: Final = "the connection was closed without an answer"
NO_HTTP: Final = "the answer is not HTTP"


_TEXTS: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((TimeoutError,), "no answer in time"),
    ((aiohttp.ServerDisconnectedError, http.client.RemoteDisconnected), CLOSED),
    ((aiohttp.ClientPayloadError, http.client.IncompleteRead), "the connection was closed in the middle of an answer"),
    ((aiohttp.ClientResponseError, http.client.HTTPException), NO_HTTP),
    ((aiohttp.InvalidURL,), "the address is no URL"),
)


def describe(error: BaseException) -> str:
    """Return why a connection, or a request over it, failed."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _system(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection ({_system(error.os_error)})"
    return next((text for kinds, text in _TEXTS if isinstance(error, kinds)), None) or _system(error)


def _system(error: BaseException) -> str:
    """Return the text of the system or of OpenSSL. Numbers of name look-ups and of OpenSSL are no errno."""
    if isinstance(error, ssl.SSLCertVerificationError):
        about = "is for another name" if error.verify_code in _NAMES else "is not trusted"
        return f"its certificate {about} ({error.verify_message.rstrip('.')})"
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or ""
        if any(part in reason for part in _PLAIN):
            return "it does not speak HTTPS there"
        return f"HTTPS failed: {reason.replace('_', ' ').lower() or type(error).__name__}"
    if isinstance(error, socket.gaierror):
        return f"its name cannot be looked up: {error.strerror or 'no reason is known'}"
    if isinstance(error, OSError):
        has_errno = error.errno is not None and error.errno > 0
        return os.strerror(error.errno) if has_errno and error.errno else error.strerror or type(error).__name__
    return type(error).__name__
