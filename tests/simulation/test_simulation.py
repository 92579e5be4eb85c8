# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands: a few seeds hold, one seed has one history, and a planted fault is found."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.simulation.planting import ROOT, names, plant, search, title

#: Seeds that once violated something, with what it was.
REGRESSIONS: dict[int, str] = {
    97: "a request was answered with 503 because its lock could not be released any more",
}


def simulation(*words: str, **environment: str) -> tuple[int, list[str]]:
    """Return the exit status and the lines of a command."""
    command = [sys.executable, "-m", "tests.simulation", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stdout.splitlines()


def test_a_dozen_seeds_hold() -> None:
    status, lines = simulation("run", "--seeds", "12", "--from", "1", "--jobs", "2")
    summary = r"simulation: 12 seeds, [\d.]+ simulated hours, \d+ CPU seconds, 0 violations"
    assert re.fullmatch(summary, lines[-1]), lines
    assert status == 0


@pytest.mark.parametrize("replicas", ["1", "3"])
def test_a_seed_has_one_history_everywhere(replicas: str, tmp_path: Path) -> None:
    words = ("replay", "17", "--replicas", replicas)
    picture = tmp_path / "history.svg"
    first = simulation(*words, "--picture", str(picture), PYTHONHASHSEED="1")
    labels = {text.text for text in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")}
    assert {line.split()[2] for line in first[1] if " announced " in line} <= {str(label)[-2:] for label in labels}
    elsewhere = tmp_path / "elsewhere, with a longer name"
    elsewhere.mkdir()
    again = simulation(*words, PYTHONHASHSEED="2", SIMULATION_DIR=str(elsewhere))
    assert first == again
    assert re.fullmatch(r"history: [0-9a-f]{64}", first[1][-1])


def test_a_failing_seed_is_shrunk_and_its_timeline_is_printed(tmp_path: Path) -> None:
    """Any task of any owner violates the property: neither the faults nor the other tasks are needed."""
    source = f"{plant('owner-not-compared', tmp_path)}{os.pathsep}{ROOT}"
    sizes = ("--most-tasks", "2", "--most-faults", "2", "--seconds", "30", "--jobs", "2")
    status, lines = simulation("run", "--seeds", "1", "--from", "1", *sizes, PYTHONPATH=source)
    [shrunk] = [line for line in lines if "shrunk" in line]
    words = re.fullmatch(r"seed 1, shrunk: (replay 1 --faults '' --tasks '\d')", shrunk)
    assert status == 1
    assert words is not None, lines
    assert any(" accepted " in line for line in lines)
    assert lines[-2].startswith("violated: owners never see each other: ")
    again, story = simulation(*shlex.split(words[1]), *sizes, PYTHONPATH=source)
    assert again == 1
    assert lines[-2] in story


@pytest.mark.slow
def test_a_planted_fault_is_found() -> None:
    found = search("concurrency-not-limited", first=1, cpu=40.0).search
    assert found.seed, found


@pytest.mark.parametrize("name", names())
def test_planted_faults_still_apply(name: str, tmp_path: Path) -> None:
    """One that does not is to be made anew."""
    assert title(name).endswith("."), "the first line says what is broken"
    plant(name, tmp_path)


@pytest.mark.parametrize("seed", sorted(REGRESSIONS))
def test_what_was_found_stays_found(seed: int) -> None:
    status, lines = simulation("run", "--seeds", "1", "--from", str(seed), "--no-shrink")
    assert status == 0, lines
