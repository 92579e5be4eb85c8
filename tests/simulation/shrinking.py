# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A failing seed is shrunk to the fewest faults, and then tasks, with which it still violates the same property."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.plan import Plan
from tests.simulation.running import Result, run_all


def shrink(failed: Result, *, jobs: int) -> Result:
    """Return the smallest failing result that leaving out faults and tasks leads to."""
    properties = {violation.property for violation in failed.violations}

    def fails(result: Result) -> bool:
        return bool(properties & {violation.property for violation in result.violations})

    best = failed
    for candidates in (_without_faults, _without_tasks):
        while (smaller := _first(candidates(best.plan), fails, jobs)) is not None:
            best = smaller
    return best


def _first(plans: list[Plan], fails: Callable[[Result], bool], jobs: int) -> Result | None:
    return next((result for result in run_all(plans, jobs=jobs, events=True, stop=fails) if fails(result)), None)


def _without_faults(plan: Plan) -> list[Plan]:
    """Return smaller plans, the smallest first."""
    return [plan.only(set(kept)) for kept in _subsets([fault.number for fault in plan.faults])]


def _without_tasks(plan: Plan) -> list[Plan]:
    faults = {fault.number for fault in plan.faults}
    return [plan.only(faults, set(kept)) for kept in _subsets([task.number for task in plan.tasks])]


def _subsets(numbers: list[int]) -> list[list[int]]:
    """Return halves, then all but one."""
    half = len(numbers) // 2
    subsets = [numbers[:half], numbers[half:]] if half else []
    subsets += [[number for number in numbers if number != left] for left in numbers]
    return [subset for subset in subsets if len(subset) < len(numbers)]
