# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Memory forecasts: the peak use of ended tasks is kept, and predicts what a new task needs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from clusterodm.cluster.controller import Controller, Loop
from clusterodm.cluster.runtime import Runtime
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
from clusterodm.core.machines import Machine, State
from clusterodm.core.names import is_image
from clusterodm.core.options import Option
from clusterodm.core.retry import Failure, failure_of
from clusterodm.core.sizing import Forecast, Peak, forecast, options_key
from clusterodm.core.tasks import COMPLETED, Phase, Stage
from clusterodm.files.spool import Spool

#: Peaks kept.
_PEAKS: Final = 2000
_MEMORY_KEY: Final = "machine_memory"


@dataclass(kw_only=True, slots=True, eq=False)
class Forecasts:
    """Learn the memory that tasks take, and that machine sizes have."""

    state: ClusterState
    spool: Spool
    #: True if there are machine sizes to choose from.
    wanted: bool
    runtime: Runtime
    peaks: list[Peak] = field(init=False, default_factory=list)
    #: Peaks not stored yet.
    _fresh: list[Peak] = field(init=False, default_factory=list)
    _megapixels: dict[str, float] = field(init=False, default_factory=dict)
    _queue: Controller[str] = field(init=False)

    def __post_init__(self) -> None:
        self._queue = Controller(
            "forecasts",
            self._keep,
            "keeps what tasks took of their machines, for later ones",
            concurrency=1,
            leadership=self.runtime.leadership,
            clock=self.runtime.clock,
        )
        self.state.tasks.watch(self._task_changed)
        self.state.machines.watch(self._machine_changed)

    async def load(self) -> None:
        """Load what was learned before."""
        self.peaks = await self.state.store.peaks(limit=_PEAKS)
        self.state.sizes.memory = await self.state.store.value(_MEMORY_KEY) or {}

    def loops(self) -> tuple[Loop, ...]:
        """Return its loops."""
        return (self._queue,)

    def _machine_changed(self, machine: Machine) -> None:
        node = self.state.machines.node(machine)
        if (
            self.runtime.leadership.held
            and machine.state is State.READY
            and node is not None
            and node.info.total_memory
            and self.state.sizes.learn(machine.provider, machine.size, node.info.total_memory)
        ):
            self._queue.put("")

    def _task_changed(self, entry: Entry) -> None:
        task, attempt = entry.task, entry.attempt
        ended = self.runtime.leadership.held and attempt is not None and attempt.stage is Stage.ENDED
        if (
            ended
            and attempt is not None
            and (attempt.reason == COMPLETED or failure_of(attempt.reason) is Failure.MEMORY)
        ):
            self._learn(entry, self.state.machines.of_node(attempt.node_id), enough=attempt.reason == COMPLETED)
        if task.phase in (Phase.FINISHED, Phase.REMOVED):
            self._megapixels.pop(task.uuid, None)

    def _learn(self, entry: Entry, machine: Machine | None, *, enough: bool) -> None:
        """Record the peak of a task; it is known only where the machine ran no other task."""
        node = self.state.machines.node(machine) if machine is not None else None
        if machine is None or node is None or machine.slots != 1 or not node.info.total_memory:
            return
        used = node.most_used if enough else node.info.total_memory
        if not used:
            return
        task = entry.task
        peak = Peak(
            at=self.runtime.clock(),
            images=task.image_count,
            megapixels=self._megapixels.get(task.uuid, 0.0),
            options=options_key(task.options),
            memory=used,
            enough=enough,
        )
        self.peaks = [*self.peaks[-_PEAKS + 1 :], peak]
        self._fresh.append(peak)
        self._queue.put("")

    async def expect(self, uuid: str, files: list[str], options: list[Option]) -> Forecast | None:
        """Return the memory forecast for a task with these files; None without similar tasks, or without machine sizes
        to choose from."""
        images = [name for name in files if is_image(name)]
        if not images or not self.wanted:
            return None
        megapixels = await asyncio.to_thread(_megapixels, self.spool.path(uuid, images[0]))
        self._megapixels[uuid] = megapixels
        return forecast(len(images), megapixels, options_key(options), self.peaks)

    async def _keep(self, _: str) -> None:
        fresh, self._fresh = self._fresh, []
        await self.state.store.add_peaks(fresh, keep=_PEAKS)
        await self.state.store.keep_value(_MEMORY_KEY, self.state.sizes.memory)


def _megapixels(path: Path) -> float:
    """Return the megapixels of an image by its header; 0 for other files."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.width * image.height / 1e6
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0.0
