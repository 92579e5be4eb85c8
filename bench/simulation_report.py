# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a simulation found: a page and three pictures."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from bench.charts import chart

HOUR = 3600.0
#: Every so many tasks one goes through the real store.
EVERY = 200
IMAGES = Path("docs/images")


@dataclass
class World:
    """What is simulated."""

    nodes: int
    tasks: int
    owners: int
    fair: bool = True
    seed: int = 7
    #: Share of all slots that arrivals would use on average.
    load: float = 0.75


@dataclass
class Report:
    """What was seen."""

    waits: list[tuple[str, float]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    decisions: int = 0
    orders: int = 0
    plan_seconds: float = 0.0
    scale_seconds: float = 0.0
    looks: int = 0
    #: (hours, tasks that wait, slots in use, machines), and (active tasks, ms of a look).
    course: list[tuple[float, int, int, int]] = field(default_factory=list)
    costs: list[tuple[int, float]] = field(default_factory=list)
    store_calls: int = 0
    store_seconds: float = 0.0
    transitions: int = 0
    hours: float = 0.0
    real_seconds: float = 0.0


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def by_size(report: Report, owners: int) -> tuple[list[float], list[float]]:
    """Waits of the hundredth of owners that have most tasks, and of the half that has fewest."""
    ranks = {f"o{rank}": rank for rank in range(owners)}
    many = [wait for owner, wait in report.waits if ranks[owner] < max(1, owners // 100)]
    few = [wait for owner, wait in report.waits if ranks[owner] >= owners // 2]
    return many, few


def curve(waits: list[float]) -> list[tuple[float, float]]:
    """Share of tasks (percent) that waited longer, by minutes."""
    ordered = sorted(waits)
    return [(wait / 60, 100 * (1 - place / len(ordered))) for place, wait in enumerate(ordered)]


def table(world: World, report: Report, fair: Report, fifo: Report, small: World) -> str:
    """docs/scaling-data.md."""
    cuts = quantiles([wait for _, wait in report.waits], n=100)
    per = report.store_seconds / max(1, report.store_calls)
    look = 1000 * report.plan_seconds / report.looks
    longest = max(cost for _, cost in report.costs)
    rate = report.transitions / report.hours / HOUR
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    ended = ", ".join(f"{name.lower()} {count:,}" for name, count in sorted(report.failures.items()))
    rows = [
        ("most nodes (a fifth fixed, the rest machines)", f"{world.nodes:,}"),
        ("tasks, owners", f"{world.tasks:,}, {world.owners:,}"),
        ("simulated / real time", f"{report.hours:.0f} h / {report.real_seconds / 60:.1f} min"),
        ("completed / failed for reasons of their own / lost", _outcomes(world, report)),
        ("attempts that ended early", ended),
        ("wait: median, 90 %, 99 %", f"{_span(cuts[49])}, {_span(cuts[89])}, {_span(cuts[98])}"),
        ("most tasks waiting at once", f"{max(row[1] for row in report.course):,}"),
        ("machines launched", f"{report.orders:,}"),
        ("placements per second of scheduling", f"{report.decisions / report.plan_seconds:,.0f}"),
        ("one scheduling pass: mean, longest", f"{look:.0f} ms, {longest:.0f} ms"),
        ("one autoscaler pass: mean", f"{1000 * report.scale_seconds / report.looks:.0f} ms"),
        ("task transitions", f"{report.transitions:,}: {rate:.1f} a second"),
        (f"one in SQLite (every {EVERY}th task)", f"{per * 1000:.2f} ms: {1 / per:,.0f} a second"),
        ("peak memory of the simulation", f"{memory:.0f} MB"),
    ]
    lines = [
        "<!-- Written by `python -m bench.simulate`. -->",
        "# Simulation results",
        "",
        "| measure | value |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += [
        "",
        f"One trace of {small.tasks:,} tasks on {small.nodes:,} nodes, under fair sharing and in order of commit:",
        "",
    ]
    lines += ["| | fair sharing | order of commit |", "|---|---|---|"]
    waits = [[*by_size(each, small.owners), [wait for _, wait in each.waits]] for each in (fair, fifo)]
    for place, name in enumerate(("owners with most tasks (1 %)", "owners with fewest tasks (50 %)", "all tasks")):
        lines.append(f"| {name}: median wait | {_span(median(waits[0][place]))} | {_span(median(waits[1][place]))} |")
    return "\n".join(lines) + "\n"


def _outcomes(world: World, report: Report) -> str:
    lost = world.tasks - sum(report.outcomes.values())
    return f"{report.outcomes['completed']:,} / {report.outcomes['failed']:,} / {lost:,}"


def pictures(report: Report, fair: Report, fifo: Report, owners: int) -> None:
    """Three charts below docs/images."""
    course = [
        ("tasks that wait", [(row[0], float(row[1])) for row in report.course]),
        ("tasks on nodes", [(row[0], float(row[2])) for row in report.course]),
        ("machines", [(row[0], float(row[3])) for row in report.course]),
    ]
    chart(IMAGES / "scaling-course.svg", "Five days of a large cluster", "hours", "number", course)
    costs = sorted((float(active), cost) for active, cost in report.costs)
    chart(IMAGES / "scaling-look.svg", "Cost of one scheduling pass", "active tasks", "ms", [("a pass", costs)])
    waits = [
        (f"{name}, {how}", curve(by_size(each, owners)[place]))
        for how, each in (("in turn", fair), ("by commit", fifo))
        for place, name in ((0, "many tasks"), (1, "few tasks"))
    ]
    chart(IMAGES / "scaling-waits.svg", "Who waits how long", "minutes", "percent that waited longer", waits)
