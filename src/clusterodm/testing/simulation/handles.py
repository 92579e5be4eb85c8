# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Handles of callbacks without what asyncio keeps for its debug mode: a simulated hour makes almost a million."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clusterodm.testing.simulation.loop import VirtualLoop


class Handle(asyncio.Handle):
    """A callback that is due."""

    __slots__ = ()

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], loop: VirtualLoop, context: Context | None
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback: Any = callback
        self._args: Any = args
        self._cancelled = False
        self._source_traceback = None
        self._repr = None

    def cancel(self) -> None:
        """Let it not run."""
        self._cancelled = True
        self._callback = self._args = None


class TimerHandle(Handle, asyncio.TimerHandle):
    """A callback for a time."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        Handle.__init__(self, callback, args, loop, context)
        self._when = when
        self._scheduled = False

    def cancel(self) -> None:
        """Let it not run."""
        if not self._cancelled and self._scheduled:
            self._loop.timer_canceled()
        Handle.cancel(self)
