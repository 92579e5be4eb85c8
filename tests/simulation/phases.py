# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The phases of tasks and machines, written into the history as they change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterodm.testing.simulation import History


class Phases:
    """Compares each task and machine with what it was before."""

    def __init__(self, history: History, actor: str) -> None:
        self._history = history
        self._actor = actor
        self._tasks: dict[str, tuple[str, int, str]] = {}
        self._machines: dict[str, str] = {}

    def task(self, task: Mapping[str, Any], attempt: Mapping[str, Any] | None) -> None:
        """Note a task's new phase, or new outcome, with its latest attempt; both by the columns of their tables."""
        uuid, phase, outcome = task["uuid"], str(task["phase"]), str(task["outcome"] or "")
        now = (phase, task["attempts"], outcome)
        before, self._tasks[uuid] = self._tasks.get(uuid), now
        if before == now:
            return
        details: dict[str, Any] = {"attempt": task["attempts"], "charged": task["charged"]}
        if attempt is not None:
            details |= {"node": attempt["node_name"], "on_node": attempt["node_uuid"]}
        if outcome and phase == "finished":
            details |= {"outcome": outcome, "error": task["error"]}
        elif attempt is not None and attempt["reason"]:
            details["reason"] = attempt["reason"]
        ended_anew = before is not None and before[:2] == now[:2] and phase == "finished"
        self._history.add(self._actor, "outcome changed" if ended_anew else f"phase {phase}", uuid, **details)

    def machine(self, machine: Mapping[str, Any]) -> None:
        """Note a machine's new state."""
        name, state = machine["id"], str(machine["state"])
        if self._machines.get(name) != state:
            self._machines[name] = state
            self._history.add(self._actor, f"machine {state}", name, why=machine["reason"])
