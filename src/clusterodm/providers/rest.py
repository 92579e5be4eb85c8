# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A client for a provider's REST API. Every failure is an error of the contract, and no message contains a key."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import aiohttp
import msgspec

from clusterodm.core.errors import ProviderError, Rejected, Throttled, Unreachable
from clusterodm.http.reasons import describe
from clusterodm.plugins import PluginContext
from clusterodm.providers.throttling import retry_at

_MAX_RESPONSE: Final = 16 << 20
#: Pages of a list; more means that the paging is broken.
_MAX_PAGES: Final = 200


class RestResponse(msgspec.Struct, frozen=True):
    """Status and decoded body of a response; the body is None if it is not JSON."""

    status: int
    body: Any


class RestClient:
    """A provider's API. `refusal` translates responses with a status of 4xx other than 401, 404 and 429."""

    def __init__(
        self,
        context: PluginContext,
        url: str,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]],
        refusal: Callable[[RestResponse], ProviderError],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._session = context.session
        self._url = url.rstrip("/")
        self._headers = headers if callable(headers) else lambda: headers
        self._refusal = refusal
        self._clock = context.clock
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True

    async def call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, **body: Any
    ) -> RestResponse:
        """Make one request. 404 is returned; any other status above 299 raises."""
        headers = {**self._headers(), **body.pop("headers", {})}
        try:
            async with self._session.request(
                method,
                self._url + path,
                params=query or {},
                headers=headers,
                allow_redirects=False,
                ssl=self._tls,
                **body,
            ) as response:
                return self._checked(await _read(response), response.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"no response ({describe(error)})") from None

    async def lines(self, path: str) -> AsyncIterator[Any]:
        """Yield the JSON values of a response with one per line."""
        try:
            async with self._session.get(
                self._url + path, headers=self._headers(), allow_redirects=False, ssl=self._tls
            ) as response:
                if response.status >= 300:
                    self._checked(await _read(response), response.headers)
                buffer = b""
                async for piece in response.content.iter_any():
                    *whole, buffer = (buffer + piece).split(b"\n")
                    for line in whole:
                        yield _decoded(line)
                    if len(buffer) > _MAX_RESPONSE:
                        raise Unreachable("a line of the response is too long")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"no response ({describe(error)})") from None

    def _checked(self, response: RestResponse, headers: Mapping[str, str]) -> RestResponse:
        if response.status < 300 or response.status == 404:
            return response
        if response.status == 429:
            raise Throttled("too many requests", until=retry_at(headers, self._clock()))
        if response.status >= 500:
            until = retry_at(headers, self._clock()) if "Retry-After" in headers else 0.0
            raise Unreachable(f"HTTP status {response.status}", until=until)
        if response.status == 401:
            raise Rejected("the key is not valid")
        raise self._refusal(response)

    async def pages(self, path: str, query: Mapping[str, str], key: str) -> AsyncIterator[Any]:
        """Yield the items of all pages of a list. Pages are numbered from 1; `per_page` in `query` is their length."""
        size = int(query["per_page"])
        for page in range(1, _MAX_PAGES + 1):
            response = await self.call("GET", path, query={**query, "page": str(page)})
            items = require_field(response, key, list)
            for item in items:
                yield item
            if len(items) < size:
                return


async def _read(response: aiohttp.ClientResponse) -> RestResponse:
    content = await response.content.read(_MAX_RESPONSE)
    while not response.content.at_eof() and len(content) < _MAX_RESPONSE:
        content += await response.content.read(_MAX_RESPONSE - len(content))
    return RestResponse(response.status, _decoded(content))


def _decoded(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content) if content else None
    except (msgspec.DecodeError, RecursionError):
        return None


def require_field(response: RestResponse, key: str, kind: type) -> Any:
    """Return a field of a response. Raise Unreachable if there is none of that type."""
    value = response.body.get(key) if isinstance(response.body, dict) else None
    if not isinstance(value, kind):
        raise Unreachable(f"a response without {key} (HTTP status {response.status})")
    return value
