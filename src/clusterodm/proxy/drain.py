# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests that are being answered, so that a shutdown can let them end.

The server's own graceful shutdown stops reading at once, which would cut every upload in the middle.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler


class InFlight:
    """Counts requests from the first header to the end of the answer."""

    def __init__(self) -> None:
        self.count = 0
        self._none = asyncio.Event()

    async def drained(self, seconds: float) -> bool:
        """Wait until there are none, at most so long; whether there are none."""
        try:
            async with asyncio.timeout(seconds):
                while self.count:
                    self._none.clear()
                    await self._none.wait()
        except TimeoutError:
            return False
        return True

    def ended(self) -> None:
        """One request less."""
        self.count -= 1
        if not self.count:
            self._none.set()


IN_FLIGHT: Final = web.AppKey("in_flight", InFlight)


@web.middleware
async def count_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count a request while it is answered."""
    in_flight = request.app[IN_FLIGHT]
    in_flight.count += 1
    try:
        return await handler(request)
    finally:
        in_flight.ended()
