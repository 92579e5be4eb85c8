# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Expected waits in the queue, from the time per image of recent tasks; accurate to half an order of magnitude."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

import msgspec

#: Past tasks without which there is no guess.
_ENOUGH: Final = 3
#: The part of the time that a task has run for which it is expected to go on at least.
_LONGER: Final = 0.1


class Pace(msgspec.Struct, frozen=True):
    """What a task takes: seconds for each image. 0: nothing is known yet."""

    per_image: float = 0.0

    @property
    def known(self) -> bool:
        """True if there is an estimate."""
        return self.per_image > 0

    def seconds(self, images: int) -> float:
        """Return the total time of a task on a node."""
        return self.per_image * max(1, images)


class Running(msgspec.Struct, frozen=True):
    """A task on a node: its images, the seconds it has run, and its progress (0-100)."""

    images: int
    elapsed: float
    progress: float


def pace(past: Iterable[tuple[int, float]]) -> Pace:
    """Return the median over past tasks, each (images, seconds)."""
    rates = [seconds / max(1, images) for images, seconds in past if seconds > 0]
    return Pace(median(rates)) if len(rates) >= _ENOUGH else Pace()


def remaining(task: Running, typical: Pace) -> float:
    """Seconds until a running task is over: half from its own progress, half from the pace of others. One that takes
    longer than others did is not over in the next moment: it is expected to take a part of that time more."""
    by_pace = max(task.elapsed * _LONGER, typical.seconds(task.images) - task.elapsed)
    if not 5 <= task.progress < 100:
        return by_pace
    by_progress = task.elapsed * (100 - task.progress) / task.progress
    return (by_pace + by_progress) / 2


def waits(queue: Sequence[int], running: Iterable[Running], slots: int, typical: Pace) -> list[float | None]:
    """Seconds until each task of the queue (images each, next first) gets a slot; None: no estimate."""
    if not typical.known or slots <= 0:
        return [None] * len(queue)
    free = sorted(remaining(task, typical) for task in running)[-slots:]
    free = [0.0] * (slots - len(free)) + free
    heapq.heapify(free)
    guesses: list[float | None] = []
    for images in queue:
        at = heapq.heappop(free)
        guesses.append(at)
        heapq.heappush(free, at + typical.seconds(images))
    return guesses
