# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rate limits: what providers say about them, and one pause for all calls of a provider.

What comes with a 429, by provider:

- Hetzner: `RateLimit-Reset`, epoch seconds, when the *whole* quota has recovered: an hour ahead, although one request
  is regained each second (https://docs.hetzner.cloud/#rate-limiting; captured in kubernetes/autoscaler#4133).
- DigitalOcean: `ratelimit-reset`, epoch seconds, when the oldest request leaves the window
  (https://docs.digitalocean.com/reference/api/digitalocean/#section/Introduction/Rate-Limit); for the limit of a minute
  also `Retry-After`, seconds (https://docs.digitalocean.com/notes/2023/api-rate-limit/).
- Scaleway: only `x-envoy-ratelimited` (captured in scaleway/terraform-provider-scaleway#4183).
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

#: Longest pause in seconds. The full quota may be an hour away where a tenth of it recovers in minutes, and idle
#: machines cost money meanwhile; a provider that needs a longer pause repeats its refusal, to one call.
LONGEST: Final = 600.0
#: First and longest pause in seconds where the provider names no time.
FIRST: Final = 1.0
LAST: Final = 60.0
_RESETS: Final = ("ratelimit-reset", "x-ratelimit-reset", "x-rate-limit-reset")
#: Numbers from these on are seconds or milliseconds since the epoch; smaller ones are seconds from now.
_EPOCH: Final = 1e9
_MILLISECONDS: Final = 1e12


def retry_at(headers: Mapping[str, str], now: float) -> float:
    """Return when a refused call may be repeated, in seconds since the epoch; 0 if the response does not say.

    Times are by the provider's clock, which its `Date` reveals. `Retry-After` is about this refusal and has precedence
    over a reset, which is about a quota.
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    retry_after = lower.get("retry-after", "")
    their_now = _date(lower.get("date", "")) or now
    seconds = _number(retry_after)
    if seconds is None and (date := _date(retry_after)):
        seconds = date - their_now
    resets = (_number(lower.get(name, "")) for name in _RESETS)
    if seconds is None and (reset := next((each for each in resets if each is not None), None)) is not None:
        reset = reset / 1000 if reset >= _MILLISECONDS else reset
        seconds = reset - their_now if reset >= _EPOCH else reset
    return now + max(0.0, seconds) if seconds is not None else 0.0


def _number(text: str) -> float | None:
    return float(text) if text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 20 else None


def _date(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0


class Pause:
    """The pause that one provider has asked for."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        #: When it ends, by the monotonic clock, and the reason.
        self._end = 0.0
        self._reason = ""
        #: Pauses in a row without a successful call in between.
        self.strikes = 0

    @property
    def remaining(self) -> float:
        """Seconds left; 0 if there is no pause."""
        return max(0.0, self._end - self._clock.steady())

    @property
    def until(self) -> float:
        """The end in seconds since the epoch."""
        return self._clock() + self.remaining

    @property
    def text(self) -> str:
        """Text for operators; empty if there is no pause."""
        if not self.remaining:
            return ""
        return f"{self._name} asks for a pause until {time_of_day(self.until)} ({self._reason})"

    def begin(self, until: float, why: str) -> None:
        """Begin or extend a pause; `until` is the time that the provider named, 0 if it named none."""
        self.strikes += not self.remaining  # concurrent calls are refused together
        least = Backoff(first=FIRST, longest=LAST).wait(self.strikes, chance())
        seconds = min(LONGEST, max(least, until - self._clock() if until else 0.0))
        self._end = max(self._end, self._clock.steady() + seconds)
        self._reason = why

    def worked(self) -> None:
        """Record a successful call."""
        self.strikes = 0
