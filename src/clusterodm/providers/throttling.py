# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Providers that ask for a pause: how they say so, and one pause for all calls of a provider.

What is sent with a 429, by provider:

- Hetzner: `RateLimit-Reset`, epoch seconds, when the *whole* quota has recovered, so an hour ahead although one request
  comes back each second (https://docs.hetzner.cloud/#rate-limiting; captured in kubernetes/autoscaler#4133).
- DigitalOcean: `ratelimit-reset`, epoch seconds, when the oldest request leaves the window
  (https://docs.digitalocean.com/reference/api/digitalocean/#section/Introduction/Rate-Limit); for the limit of a minute
  also `Retry-After`, seconds (https://docs.digitalocean.com/notes/2023/api-rate-limit/).
- Scaleway: nothing but `x-envoy-ratelimited` (captured in scaleway/terraform-provider-scaleway#4183).
- Kubernetes: `Retry-After`, seconds (https://kubernetes.io/docs/concepts/cluster-administration/flow-control/).
- EC2: an error code, no header (https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html).

`Retry-After` may also be a date (RFC 9110, 10.2.3), and `RateLimit-Reset` seconds (drafts of the IETF).
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from clusterodm.aio import Clock, chance
from clusterodm.core.backoff import Backoff
from clusterodm.core.durations import time_of_day

#: Seconds of a pause at most. A full quota may be an hour away where a tenth of it comes back in minutes, and machines
#: that nobody needs cost money meanwhile; a provider that wants more says so again, to one call.
LONGEST: Final = 600.0
#: Seconds of the first pause where nothing is said, doubled up to the last while it goes on; chance makes it shorter.
FIRST: Final = 1.0
LAST: Final = 60.0
_RESETS: Final = ("ratelimit-reset", "x-ratelimit-reset", "x-rate-limit-reset")
#: Larger numbers are times (seconds, or milliseconds, since the epoch), smaller ones seconds from now.
_EPOCH: Final = 1e9
_MILLISECONDS: Final = 1e12


def retry_at(headers: Mapping[str, str], now: float) -> float:
    """Return until when (seconds since the epoch) an answer asks for a pause; 0 if it does not say.

    Times are by the provider's clock, which its `Date` tells. `Retry-After` speaks of this refusal and so comes before
    a reset, which speaks of a quota.
    """
    said = {name.lower(): value.strip() for name, value in headers.items()}
    told = said.get("retry-after", "")
    there = _date(said.get("date", "")) or now
    seconds = _number(told)
    if seconds is None and (date := _date(told)):
        seconds = date - there
    resets = (_number(said.get(name, "")) for name in _RESETS)
    if seconds is None and (reset := next((each for each in resets if each is not None), None)) is not None:
        reset = reset / 1000 if reset >= _MILLISECONDS else reset
        seconds = reset - there if reset >= _EPOCH else reset
    return now + max(0.0, seconds) if seconds is not None else 0.0


def _number(text: str) -> float | None:
    return float(text) if text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 20 else None


def _date(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0


class Pause:
    """The pause that one provider asks for."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        #: When it ends (by the monotonic clock), and what it is for.
        self._end = 0.0
        self._why = ""
        #: Pauses in a row without a call that worked in between.
        self.strikes = 0

    @property
    def left(self) -> float:
        """Seconds that are left of it; 0: there is none."""
        return max(0.0, self._end - self._clock.steady())

    @property
    def until(self) -> float:
        """When it ends, in seconds since the epoch."""
        return self._clock() + self.left

    @property
    def text(self) -> str:
        """What people are told; empty if there is none."""
        if not self.left:
            return ""
        return f"{self._name} asks for a pause until {time_of_day(self.until)} ({self._why})"

    def begin(self, until: float, why: str) -> None:
        """Begin a pause, or make it longer. `until`: as the provider said, 0 if it did not."""
        self.strikes += not self.left  # calls that were under way together are refused together
        least = Backoff(first=FIRST, longest=LAST).wait(self.strikes, chance())
        seconds = min(LONGEST, max(least, until - self._clock() if until else 0.0))
        self._end = max(self._end, self._clock.steady() + seconds)
        self._why = why

    def worked(self) -> None:
        """Take note that a call was answered."""
        self.strikes = 0
