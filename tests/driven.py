# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""An event loop in driven time: timers are due as soon as nothing else can run, so that no test waits for them."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        assert events or timeout is not None, "nothing can happen any more"
        if not events:
            self.now += max(0.0, timeout or 0.0)
        return events


class DrivenLoop(asyncio.SelectorEventLoop):
    """A loop whose time begins at 0 and passes only while everything waits."""

    def __init__(self) -> None:
        self._driven = _Selector()
        super().__init__(self._driven)

    def time(self) -> float:
        return self._driven.now


def run_driven(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in driven time."""
    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        return runner.run(main)
