# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""URLs requested exactly as written: a signature over `%2F` does not match `/`."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote_plus, urlsplit

from yarl import URL

#: The characters of a request line; others (spaces, control characters, non-ASCII) are encoded.
_SENT: Final = "".join(map(chr, range(0x21, 0x7F)))


def as_written(url: str) -> URL:
    """Return a URL whose path and query are those of `url`, character for character. Raises ValueError unless it is an
    http or https URL."""
    split, parsed = urlsplit(url), URL(url)
    host = parsed.raw_host or ""
    if parsed.scheme not in ("http", "https") or parsed.port == 0 or not host or " " in host:
        raise ValueError("not an http or https URL")
    query = f"?{_sendable(split.query)}" if split.query else ""
    return URL(f"{parsed.scheme}://{parsed.raw_authority}{_sendable(split.path) or '/'}{query}", encoded=True)


def without(query: str, name: str) -> str:
    """Return a query as written, without one of its parameters."""
    return "&".join(part for part in query.split("&") if unquote_plus(part.partition("=")[0]) != name)


def _sendable(text: str) -> str:
    return quote(text, safe=_SENT, errors="surrogateescape")
