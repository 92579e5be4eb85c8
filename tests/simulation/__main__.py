# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands: run many seeds, replay one.

python -m tests.simulation run --seeds 200 --from 1
python -m tests.simulation replay 17 [--faults 0,2] [--tasks 1] [--picture history.svg]
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path

if sys.flags.hash_randomization:  # sets of strings are ordered by it
    os.execve(
        sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"}
    )

import msgspec

from tests.simulation.picture import draw
from tests.simulation.plan import Plan, make_plan
from tests.simulation.planting import HEAD, Search, names, row, search_all
from tests.simulation.running import Result, run_all, run_one
from tests.simulation.shrinking import shrink

_MOST_SHRUNK = 5


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    many = commands.add_parser("run")
    many.add_argument("--seeds", type=int, default=200)
    many.add_argument("--from", type=int, default=1, dest="first")
    many.add_argument("--no-shrink", action="store_true")
    one = commands.add_parser("replay")
    one.add_argument("seed", type=int)
    one.add_argument("--faults", default=None, help="only these, by number, separated by commas")
    one.add_argument("--tasks", default=None, help="only these, by number, separated by commas")
    one.add_argument("--picture", type=Path, help="write the history as SVG to this file")
    find = commands.add_parser("find")
    find.add_argument("--from", type=int, default=1, dest="first")
    find.add_argument("--cpu", type=float, default=600.0)
    find.add_argument("--replicas", type=int, default=0)
    commands.add_parser("speed")
    broken = commands.add_parser("planted")
    broken.add_argument("names", nargs="*", default=[])
    broken.add_argument("--from", type=int, default=1, dest="first")
    broken.add_argument("--cpu", type=float, default=600.0)
    broken.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    for each in (many, one):
        each.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
        _add_sizes(each)
    given = parser.parse_args()
    if given.command == "planted":
        return _planted(given.names or names(), given.first, given.cpu, given.jobs)
    if given.command == "speed":
        return _speed()
    if given.command == "find":
        print(msgspec.json.encode(_find(given.first, given.cpu, given.replicas)).decode())
        return 0
    sizes = {
        "replicas": given.replicas,
        "nodes": given.nodes,
        "tasks": given.most_tasks,
        "seconds": given.seconds,
        "faults": given.most_faults,
    }
    if given.command == "replay":
        return _replay(_only(make_plan(given.seed, **sizes), given.faults, given.tasks), given.picture)
    plans = (make_plan(seed, **sizes) for seed in range(given.first, given.first + given.seeds))
    return _run(list(plans), given.jobs, shrunk=not given.no_shrink)


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--replicas", type=int, default=0)
    parser.add_argument("--most-tasks", type=int, default=0)
    parser.add_argument("--most-faults", type=int, default=-1)
    parser.add_argument("--seconds", type=float, default=0.0)


def _speed() -> int:
    """Run an hour of twenty nodes, two hundred tasks and default settings."""
    plan = make_plan(1, nodes=20, tasks=200, seconds=3600.0, faults=8)
    result = run_one(replace(plan, settings={"results": "stream"}), events=False)
    print(f"{result.hours / result.cpu * 3600:.0f} simulated hours per CPU hour, {result.steps} callbacks")
    return 1 if result.failed else 0


def _planted(wanted: list[str], first: int, cpu: float, jobs: int) -> int:
    print(HEAD, flush=True)
    missed = 0
    for found in search_all(wanted, first=first, cpu=cpu, jobs=jobs):
        missed += not found.search.seed
        print(row(found), flush=True)
    return 1 if missed else 0


def _find(first: int, cpu: float, replicas: int) -> Search:
    """Run seeds, one after another, until one violates something."""
    spent, seeds = 0.0, 0
    plans = (make_plan(seed, replicas=replicas) for seed in itertools.count(first))
    for result in run_all(plans, jobs=1):
        spent, seeds = spent + result.cpu, seeds + 1
        for violation in result.violations:
            return Search(result.plan.seed, seeds, spent, violation.property, violation.text)
        if spent > cpu:
            break
    return Search(0, seeds, spent)


def _only(plan: Plan, faults: str | None, tasks: str | None) -> Plan:
    if faults is None and tasks is None:
        return plan
    kept = {fault.number for fault in plan.faults} if faults is None else _numbers(faults)
    return plan.only(kept, None if tasks is None else _numbers(tasks))


def _numbers(text: str) -> set[int]:
    return {int(number) for number in text.split(",") if number}


def _run(plans: list[Plan], jobs: int, *, shrunk: bool) -> int:
    hours, cpu, violations, failed = 0.0, 0.0, 0, list[Result]()
    for result in run_all(plans, jobs=jobs):
        hours, cpu, violations = hours + result.hours, cpu + result.cpu, violations + len(result.violations)
        if result.failed:
            failed.append(result)
            for violation in result.violations:
                print(f"seed {result.plan.seed}: {violation.property}: {violation.text}", flush=True)
            if result.crash:
                violations += 1
                print(f"seed {result.plan.seed}: the simulation broke:\n{result.crash}", flush=True)
    for result in failed[: _MOST_SHRUNK if shrunk else 0]:
        if result.violations:
            _tell(shrink(result, jobs=jobs))
    print(
        f"simulation: {len(plans)} seeds, {hours:.1f} simulated hours, {cpu:.0f} CPU seconds, {violations} violations"
    )
    return 1 if violations else 0


def _tell(result: Result) -> None:
    """Print the story of a failure."""
    plan = result.plan
    faults, tasks = ",".join(str(fault.number) for fault in plan.faults), ",".join(str(t.number) for t in plan.tasks)
    print(f"\nseed {plan.seed}, shrunk: replay {plan.seed} --faults '{faults}' --tasks '{tasks}'")
    subjects = {violation.subject for violation in result.violations}
    for line in (event.line() for event in result.events):
        if any(subject and subject in line for subject in subjects) or "world" in line or "  cluster " in line:
            print(line[:240])
    for violation in result.violations:
        print(f"violated: {violation.property}: {violation.text}")


def _replay(plan: Plan, picture: Path | None) -> int:
    result = run_one(plan)
    for event in result.events:
        print(event.line()[:240])
    if picture:
        picture.write_text(draw(result.events, f"seed {plan.seed}"))
    for violation in result.violations:
        print(f"violated: {violation.property}: {violation.text}")
    if result.crash:
        print(result.crash)
    print(f"history: {result.digest}")
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())
