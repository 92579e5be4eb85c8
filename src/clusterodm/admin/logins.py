# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What wrong passwords cost: time, and an address that keeps guessing is not even listened to."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from clusterodm.core.forwarding import network_of

#: Seconds that a wrong password costs. Those of one address are answered one after another.
DELAY: Final = 1.0
#: Wrong passwords of one address that may wait for their answer; then the address is refused unheard.
FEW: Final = 10
#: Wrong passwords that may wait for their answer in all.
MANY: Final = 100
#: Addresses that are remembered; of those beyond, the one that guessed longest ago is forgotten.
_ADDRESSES: Final = 10_000


class Logins:
    """Limits guesses per address (of IPv6, per network) and the answers that wait in all."""

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        #: When the answer to the last wrong password of an address is due.
        self._due: OrderedDict[str, float] = OrderedDict()
        self._waiting = 0

    def refused(self, address: str | None) -> int:
        """Seconds for which no password of an address is looked at, neither a wrong nor the right one: what came at
        once would otherwise tell which; 0 when the next one is."""
        ahead = self._due.get(network_of(address or ""), 0.0) - self._steady()
        return max(0, math.ceil(ahead - (FEW - 1) * DELAY))

    async def wrong(self, address: str | None) -> int:
        """Make a wrong password wait for its answer; 0 after that. Seconds to come back after when too many wait."""
        network, now = network_of(address or ""), self._steady()
        due = max(now, self._due.pop(network, 0.0)) + DELAY
        self._due[network] = due
        while len(self._due) > _ADDRESSES:
            self._due.popitem(last=False)
        if self._waiting >= MANY:
            return math.ceil(due - now)
        self._waiting += 1
        try:
            await asyncio.sleep(due - now)
        finally:
            self._waiting -= 1
        return 0
