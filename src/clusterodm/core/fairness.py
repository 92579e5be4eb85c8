# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What owners have used of the nodes: node-seconds that lose half their weight every day.

An attempt counts with its whole length for as long as it runs, and from its end on loses weight. So two owners who
always have work get equal node time, even if the tasks of one take half a day and those of the other a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp2
from typing import Final

import msgspec

from clusterodm.core.tasks import OWNER_MARK

#: Seconds in which what was used loses half its weight. Long against a task, or a long one would be forgotten before
#: its owner's rivals have caught up (up to 15 hours the error stays below 10 %); short against the patience of those
#: who have used much, because a newcomer comes before them for one half-life at most.
HALF_LIFE: Final = 86400.0
#: Seconds that a task counts from its placement, until it has run for longer: of several slots that are free at once
#: not all go to the same owner.
EXPECTED: Final = 900.0
#: Seconds that an attempt counts at most: a clock that was set must not shut an owner out.
LONGEST: Final = 7 * 86400.0
#: Node-seconds that are no longer worth remembering.
NEGLIGIBLE: Final = 60.0


class Account(msgspec.Struct, frozen=True):
    """Node-seconds of an owner, as they counted at a time (seconds since the epoch)."""

    owner: str
    seconds: float
    at: float

    def remaining(self, now: float) -> float:
        """Return what still counts."""
        return self.seconds * exp2(-max(0.0, now - self.at) / HALF_LIFE)

    def charged(self, seconds: float, now: float) -> Account:
        """Return the account with the node-seconds of an attempt that ended now."""
        return Account(self.owner, self.remaining(now) + seconds, now)


class Usage(msgspec.Struct, frozen=True):
    """What was used up to now: node-seconds of attempts that ended, by owner, and when each attempt that runs began, by
    task."""

    ended: Mapping[str, float] = {}
    began: Mapping[str, float] = {}

    def elapsed(self, task: str, now: float) -> float:
        """Return for how long a task has been on its node."""
        return length(self.began.get(task, now), now)


class Ledger:
    """Accounts of all owners who have used something lately."""

    def __init__(self, accounts: Iterable[Account] = ()) -> None:
        self._accounts = {account.owner: account for account in accounts}

    def charge(self, owner: str, seconds: float, now: float) -> None:
        """Add the node-seconds of an attempt that ended now."""
        self._accounts[owner] = self._accounts.get(owner, Account(owner, 0.0, now)).charged(seconds, now)

    def remaining(self, now: float) -> dict[str, float]:
        """Return what still counts, by owner."""
        return {owner: account.remaining(now) for owner, account in self._accounts.items()}


def length(began: float, ended: float) -> float:
    """Return the node-seconds of an attempt."""
    return min(LONGEST, max(0.0, ended - began))


def payer(owner: str) -> str:
    """Return whose usage a task of `owner` is: submodels are their job's owner's."""
    return owner.partition(OWNER_MARK)[0]


def node_time(seconds: float) -> str:
    """Return node-seconds in words."""
    if seconds < 60.0:
        return "less than a node-minute" if seconds > 0.0 else "no node time"
    return f"{seconds / 60:.0f} node-minutes" if seconds < 5400.0 else f"{seconds / 3600:.1f} node-hours"
