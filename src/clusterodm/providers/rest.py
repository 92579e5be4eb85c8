# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls to a provider's REST API: one small client, every failure one of the contract's errors, no key in any text."""

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

_MAX_ANSWER: Final = 16 << 20
#: Pages of a list; more means that something is wrong.
_MAX_PAGES: Final = 200


class RestResponse(msgspec.Struct, frozen=True):
    """MachineStatus and decoded body of an answer; None where there is none."""

    status: int
    body: Any


class RestClient:
    """A provider's API. `refusal` makes an error of an answer with status 400 to 499 that is none of the usual ones."""

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
        """One request. 404 is an answer; everything else above 299 is an error."""
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
                return self._judged(await _answer(response), response.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"no answer ({describe(error)})") from None

    async def lines(self, path: str) -> AsyncIterator[Any]:
        """The JSON values of an answer that comes line by line."""
        try:
            async with self._session.get(
                self._url + path, headers=self._headers(), allow_redirects=False, ssl=self._tls
            ) as response:
                if response.status >= 300:
                    self._judged(await _answer(response), response.headers)
                buffer = b""
                async for piece in response.content.iter_any():
                    *whole, buffer = (buffer + piece).split(b"\n")
                    for line in whole:
                        yield _decoded(line)
                    if len(buffer) > _MAX_ANSWER:
                        raise Unreachable("a line that does not end")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"no answer ({describe(error)})") from None

    def _judged(self, answer: RestResponse, headers: Mapping[str, str]) -> RestResponse:
        if answer.status < 300 or answer.status == 404:
            return answer
        if answer.status == 429:
            raise Throttled("too many requests", until=retry_at(headers, self._clock()))
        if answer.status >= 500:
            until = retry_at(headers, self._clock()) if "Retry-After" in headers else 0.0
            raise Unreachable(f"HTTP status {answer.status}", until=until)
        if answer.status == 401:
            raise Rejected("the key is not valid")
        raise self._refusal(answer)

    async def pages(self, path: str, query: Mapping[str, str], key: str) -> AsyncIterator[Any]:
        """Items of a list over all its pages, numbered from 1, each as long as the query's `per_page` but the last."""
        size = int(query["per_page"])
        for page in range(1, _MAX_PAGES + 1):
            answer = await self.call("GET", path, query={**query, "page": str(page)})
            items = require_field(answer, key, list)
            for item in items:
                yield item
            if len(items) < size:
                return


async def _answer(response: aiohttp.ClientResponse) -> RestResponse:
    content = await response.content.read(_MAX_ANSWER)
    while not response.content.at_eof() and len(content) < _MAX_ANSWER:
        content += await response.content.read(_MAX_ANSWER - len(content))
    return RestResponse(response.status, _decoded(content))


def _decoded(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content) if content else None
    except (msgspec.DecodeError, RecursionError):
        return None


def require_field(answer: RestResponse, key: str, kind: type) -> Any:
    """A field of an answer. Raises Unreachable for an answer that has none of that kind."""
    found = answer.body.get(key) if isinstance(answer.body, dict) else None
    if not isinstance(found, kind):
        raise Unreachable(f"an answer without {key} (HTTP status {answer.status})")
    return found
