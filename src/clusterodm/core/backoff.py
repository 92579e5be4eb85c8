# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import msgspec

#: Failures after which a wait has long been as long as it gets; a float would overflow at some time.
_MANY = 100


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Waits that grow with each failure in a row, and differ by chance: what failed together must not come back
    together."""

    first: float
    longest: float
    factor: float = 2.0
    #: The part of a wait that chance may take away.
    jitter: float = 0.5

    def wait(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row, from 1 on; `chance` is a random number from 0 to 1."""
        full = min(self.longest, self.first * self.factor ** (max(1, min(failures, _MANY)) - 1))
        return full * (1.0 - self.jitter * chance)
