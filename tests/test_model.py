# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The model of leader, claim and attempt: it is about this code, it holds, and it notices what is left out of it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from clusterodm.core.tasks import ON_NODE, TRANSITIONS, Cleanup, Stage
from tests.needs import NEEDS, need

FOLDER = Path(__file__).parents[1] / "tools" / "model"
MODEL = (FOLDER / "Attempts.tla").read_text()
CONFIG = (FOLDER / "Attempts.cfg").read_text()
#: Seconds for one check, on a machine that does other things, too.
LONGEST = 300.0

#: What is left out of the model, as (text, replacement), and one property that does not hold without it.
PLANTED: dict[str, tuple[str, str, str]] = {
    "a claim compares nothing": (r's.kind = "claim" /\ SameRow(s)', 's.kind = "claim"', "OneCounts"),
    "a leader without its lock places without a compare": (
        r's.kind = "place" /\ Current(s)',
        's.kind = "place"',
        "OnlyTransitions",
    ),
    "the cleaner takes no command lock": (r's.kind = "clean" /\ command = None', 's.kind = "clean"', "EveryRunEnds"),
    "a restart is ordered before it is stored": (
        'Put(task.number, [row EXCEPT !.cleanup = "cancel"])',
        "UNCHANGED rows",
        "EveryRunEnds",
    ),
    "a task that is restarted twice is queued while it is under way": (
        r'"restart here" /\ task.phase = "finished"',
        r'"restart here" /\ task.phase # "removed"',
        "OneCounts",
    ),
    "a task that fails with its node leaves its run there": ('[] s.kind = "lost" -> "cancel"', "", "EveryRunEnds"),
    "a cancel leaves uncommitted files": (r'cleanup = "remove" \/ @ = "files"', 'cleanup = "remove"', "EveryRunEnds"),
    "a compare does not tell an attempt from its restart": (r" /\ row.run = s.row.run", "", "LatestRunCounts"),
    "a compare does not look at the stage": (r" /\ row.stage = s.row.stage", "", "EveryRunEnds"),
}


def check(folder: Path, model: str, config: str) -> subprocess.CompletedProcess[str]:
    """Check a model; skip the test where that is not possible, or takes too long."""
    need("java", "mvn")
    if "MODEL" not in os.environ:
        pytest.skip(f"{NEEDS}two minutes: `make model`")
    (folder / "Attempts.tla").write_text(model)
    (folder / "a.cfg").write_text(config)
    words = [FOLDER / "check", folder / "a.cfg", folder / "Attempts.tla"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=LONGEST)
    if "not checked" in done.stdout:
        pytest.skip(f"{NEEDS}a model checker: {done.stdout.strip()}")
    return done


def _strings(text: str) -> set[str]:
    return set(re.findall(r'"(\w+)"', text))


def _named(name: str) -> set[str]:
    found = re.search(rf"^{name} == (.*)$", MODEL, re.MULTILINE)
    assert found is not None, name
    return _strings(found[1])


def test_the_model_has_the_transitions_and_stages_of_the_code() -> None:
    table = MODEL[MODEL.index("TRANSITIONS ==") : MODEL.index("ON_NODE ==")]
    rows = re.findall(r"(\w+) +\|-> \{(.*?)\}", table)
    assert {phase: _strings(follow) for phase, follow in rows} == {
        str(phase): {str(each) for each in follow} for phase, follow in TRANSITIONS.items()
    }
    assert _named("STAGES") == {str(stage) for stage in Stage}
    assert _named("CLEANUPS") == {str(cleanup) for cleanup in Cleanup}
    assert _named("ON_NODE") == {str(phase) for phase in ON_NODE}


def test_the_model_can_be_read_in_one_sitting() -> None:
    lines = MODEL.splitlines()
    assert (len(lines) < 200, max(map(len, lines)) <= 120) == (True, True)


def test_every_property_of_the_model_holds(tmp_path: Path) -> None:
    done = check(tmp_path, MODEL, CONFIG)
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.fullmatch(r"model: [1-9]\d{4,} states, every property holds \(a.cfg\)\n", done.stdout)


@pytest.mark.parametrize("left_out", PLANTED)
def test_the_model_notices_what_is_left_out(tmp_path: Path, left_out: str) -> None:
    text, replacement, broken = PLANTED[left_out]
    assert MODEL.count(text) == 1
    twice = CONFIG.replace("Restarts = 1", "Restarts = 2") if "twice" in left_out else CONFIG
    done = check(tmp_path, MODEL.replace(text, replacement), twice)
    assert done.returncode == 1
    assert re.search(r"(?:Invariant|Action property) (\w+) is violated", done.stdout), done.stdout[-3000:]
    assert f"{broken} is violated" in done.stdout
