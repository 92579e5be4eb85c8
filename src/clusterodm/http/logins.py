# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Limit on guessed passwords: a wrong one costs time, and an address that keeps guessing is refused unheard."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from clusterodm.core.errors import BadRequest
from clusterodm.core.forwarding import network_of

T = TypeVar("T")

#: Seconds by which the answer to a wrong password is delayed. Answers to one address come one after another.
DELAY: Final = 1.0
#: Passwords of one address under way or delayed; then the address is refused.
FEW: Final = 10
#: Delayed answers in all.
MANY: Final = 100
#: Addresses that are remembered; beyond that, the one that guessed longest ago is forgotten.
_ADDRESSES: Final = 10_000


class TooManyGuesses(BadRequest):
    """An address has to wait before its next password is checked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = math.ceil(seconds)
        super().__init__(f"too many wrong passwords, try again in {self.seconds} s")


class Logins:
    """Limits guesses per address (IPv6: per network), and the delayed answers in all."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        #: When the answer to the last password of an address is due.
        self._due: OrderedDict[str, float] = OrderedDict()
        self._delayed = 0

    async def check(self, address: str | None, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return the result of an attempt to log in, delayed if it is false. While an address is refused, neither right
        nor wrong passwords are checked: answers must not tell them apart. Raises TooManyGuesses."""
        network, now = network_of(address or ""), self._steady()
        due = max(now, self._due.get(network, 0.0)) + DELAY
        if due - now > FEW * DELAY:
            raise TooManyGuesses(due - now - FEW * DELAY)
        self._set(network, due)  # before the attempt: guesses that are sent at once count at once
        try:
            result = await attempt()
        except BaseException:
            self._refund(network)
            raise
        if result:
            self._refund(network)
        else:
            await self._delay(due)
        return result

    def _set(self, network: str, due: float) -> None:
        self._due[network] = due
        self._due.move_to_end(network)
        while len(self._due) > _ADDRESSES:
            self._due.popitem(last=False)

    def _refund(self, network: str) -> None:
        if network in self._due:
            self._due[network] -= DELAY
            if self._due[network] <= self._steady():
                del self._due[network]

    async def _delay(self, due: float) -> None:
        seconds = max(0.0, due - self._steady())
        if self._delayed >= MANY:
            raise TooManyGuesses(seconds)
        self._delayed += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._delayed -= 1
