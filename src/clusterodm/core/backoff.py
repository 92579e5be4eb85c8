# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Exponential backoff with jitter."""

from __future__ import annotations

import msgspec

#: Failures after which the wait no longer grows, before a float could overflow.
_MANY = 100


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Waits that grow with each consecutive failure, with jitter to spread retries."""

    first: float
    longest: float
    factor: float = 2.0
    #: The fraction of a wait that chance may remove.
    jitter: float = 0.5

    def wait(self, failures: int, chance: float) -> float:
        """Return the seconds to wait after `failures` in a row (from 1 on); `chance` is a random number from 0 to 1."""
        full = min(self.longest, self.first * self.factor ** (max(1, min(failures, _MANY)) - 1))
        return full * (1.0 - self.jitter * chance)
