# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What follows a failed attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.retry import BACK_OFF, RULES, Again, Failure, Over, classify, decide
from clusterodm.core.tasks import Phase, Task


def task(charged: int = 0, attempts: int = 1) -> Task:
    return Task(uuid="u", owner="o", phase=Phase.RUNNING, charged=charged, attempts=attempts)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("Not enough memory (exit code 137)", Failure.MEMORY),
        ("Processing failed, exit code 137", Failure.MEMORY),
        ("Unsupported CPU", Failure.HARDWARE),
        ("Installation issue", Failure.HARDWARE),
        ("Cannot process dataset (exit code 1)", Failure.PROCESSING),
        ("anything else", Failure.PROCESSING),
    ],
)
def test_a_nodes_error_text_is_read(text: str, failure: Failure) -> None:
    assert classify(text) is failure


@pytest.mark.parametrize(
    ("failure", "charged", "larger", "again"),
    [
        (Failure.UNREACHABLE, 0, False, True),
        (Failure.UNREACHABLE, 2, False, False),
        (Failure.FORGOTTEN, 1, False, True),
        (Failure.DISPATCH, 2, False, True),
        (Failure.DISPATCH, 99, False, True),
        (Failure.INTERRUPTED, 99, False, True),
        (Failure.MEMORY, 0, True, True),
        (Failure.MEMORY, 0, False, False),
        (Failure.PROCESSING, 0, True, False),
    ],
)
def test_the_policy(failure: Failure, charged: int, larger: bool, again: bool) -> None:
    verdict = decide(task(charged), failure, "why", 100.0, max_attempts=3, larger_exists=larger)
    assert isinstance(verdict, Again) is again
    if isinstance(verdict, Again):
        assert verdict.charged == charged + RULES[failure].charged
        assert verdict.not_before > 100.0
        assert verdict.larger is RULES[failure].larger
    else:
        assert verdict.error == "why"


def test_without_a_text_of_the_node_the_failure_itself_is_told() -> None:
    verdict = decide(task(2), Failure.UNREACHABLE, "", 0.0, max_attempts=3, larger_exists=False)
    assert verdict == Over(error=str(Failure.UNREACHABLE))


def test_every_failure_has_a_rule() -> None:
    assert set(RULES) == set(Failure)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_the_wait_grows_to_a_minute_at_most_and_chance_shortens_it(attempts: int, chance: float) -> None:
    verdict = decide(
        task(attempts=attempts), Failure.DISPATCH, "", 100.0, max_attempts=3, larger_exists=False, chance=chance
    )
    assert isinstance(verdict, Again)
    assert verdict.not_before == 100.0 + BACK_OFF.wait(attempts, chance)
    assert 100.0 < verdict.not_before <= 160.0
