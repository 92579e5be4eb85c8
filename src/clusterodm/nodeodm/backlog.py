# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files that a transfer has yet to send, grouped into requests; failed requests are repeated after a delay."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from clusterodm.aio import Clock, chance
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import NodeUnreachable

#: Files and bytes of one request, unless a single file is larger: a retry repeats little.
MAX_FILES: Final = 32
MAX_BYTES: Final = 4 << 20
#: Retries of a request in a row without another one succeeding, and in total.
RETRIES: Final = 5
MAX_RETRIES: Final = 20
#: Delays before retries.
PAUSES: Final = Backoff(first=0.25, longest=8.0)
#: Seconds after which an idle connection is closed, before its node closes it just as the next file is sent.
_QUIET: Final = 2.0


class Batch:
    """Files of one request, with their sizes."""

    def __init__(self, files: list[tuple[Path, int]]) -> None:
        self.files = files
        self.size = sum(size for _, size in files)
        self.failures = 0
        self.in_a_row = 0
        #: Successful requests of the transfer when this one last failed.
        self.arrived_before = 0


class Backlog:
    """Shared by the threads of one transfer."""

    def __init__(self, lanes: int, clock: Clock) -> None:
        self._lanes = lanes
        self._clock = clock
        self._changed = threading.Condition()
        self._new: deque[tuple[Path, int]] = deque()
        self._later: list[tuple[float, int, Batch]] = []
        self._ended = False
        self._stopped = False
        self._arrivals = 0
        #: Files that the node has confirmed, and their bytes.
        self.arrived_files = 0
        self.arrived_bytes = 0

    @property
    def waiting(self) -> int:
        """Number of files that are in no request yet."""
        return len(self._new)

    @property
    def ended(self) -> bool:
        """True once no more files will be added."""
        return self._ended

    @property
    def stopped(self) -> bool:
        """True once the transfer was stopped."""
        return self._stopped

    def add(self, path: Path, size: int) -> None:
        """Add a file to be sent."""
        with self._changed:
            self._new.append((path, size))
            self._changed.notify()

    def end(self) -> None:
        """Declare that no more files will be added."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out no more batches."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def take(self, quiet: Callable[[], None]) -> Batch | None:
        """Wait for the next batch; return None if there will be none. `quiet` is called after a while without one."""
        quiet_at: float | None = self._clock.steady() + _QUIET
        with self._changed:
            while not self._stopped and not (self._ended and not self._new and not self._later):
                now = self._clock.steady()
                if self._later and self._later[0][0] <= now:
                    return heapq.heappop(self._later)[2]
                if self._new:
                    return self._next()
                if quiet_at is not None and now >= quiet_at:
                    quiet()
                    quiet_at = None
                due = [at for at in (quiet_at, self._later[0][0] if self._later else None) if at is not None]
                self._changed.wait(max(0.0, min(due) - now) if due else None)
        return None

    def _next(self) -> Batch:
        """Return the next files for one request, leaving work for the other lanes."""
        most = min(MAX_FILES, -(-len(self._new) // self._lanes))
        files = [self._new.popleft()]
        room = MAX_BYTES - files[0][1]
        while len(files) < most and self._new and self._new[0][1] <= room:
            files.append(self._new.popleft())
            room -= files[-1][1]
        return Batch(files)

    def arrived(self, batch: Batch) -> None:
        """Record that the node has confirmed a batch."""
        with self._changed:
            self._arrivals += 1
            self.arrived_files += len(batch.files)
            self.arrived_bytes += batch.size

    def again(self, batch: Batch, why: str) -> None:
        """Schedule a batch once more after a delay. Raise NodeUnreachable if its retries are used up."""
        with self._changed:
            batch.in_a_row = batch.in_a_row + 1 if batch.arrived_before == self._arrivals else 1
            batch.arrived_before = self._arrivals
            batch.failures += 1
            if batch.in_a_row > RETRIES or batch.failures > MAX_RETRIES:
                raise NodeUnreachable(f"an upload failed {batch.failures} times ({why})")
            delay = PAUSES.wait(batch.in_a_row, chance())
            heapq.heappush(self._later, (self._clock.steady() + delay, id(batch), batch))
            self._changed.notify_all()
