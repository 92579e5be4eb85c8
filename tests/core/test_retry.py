# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What follows a failed attempt."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.errors import NodeRefused, TokenRejected
from clusterodm.core.retry import (
    BACK_OFF,
    PATIENCE,
    RESTART_BACK_OFF,
    RESTART_TAKES,
    RESTARTS,
    RULES,
    Again,
    Circumstances,
    Failure,
    Fetch,
    Over,
    Restart,
    awaits_restart,
    classify,
    classify_refusal,
    decide,
    describe,
    failure_of,
    is_packed,
    restart_reason,
    restarts,
    told_limit,
    undelivered,
)
from clusterodm.core.tasks import Attempt, Phase, Task


def task(charged: int = 0, attempts: int = 1, **fields: Any) -> Task:
    return Task(uuid="u", owner="o", phase=Phase.RUNNING, charged=charged, attempts=attempts, **fields)


def around(**circumstances: Any) -> Circumstances:
    return Circumstances(max_attempts=3, **circumstances)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("Not enough memory (exit code 137)", Failure.MEMORY),
        ("Processing failed, exit code 137", Failure.MEMORY),
        ("Unsupported CPU", Failure.HARDWARE),
        ("Installation issue", Failure.HARDWARE),
        ("Cannot process dataset (exit code 1)", Failure.PROCESSING),
        ("anything else", Failure.PROCESSING),
        ("120 images uploaded, but this node can only process up to 100.", Failure.TOO_MANY),
        ("EROFS: read-only file system, mkdir 'tests/data/688d7959-2d2d-4b01-9629-e1af29eeac98'", Failure.NODE_FAULT),
        ("ENOSPC: no space left on device, write", Failure.NODE_FAULT),
        ("EACCES: permission denied, mkdir 'data/x'", Failure.NODE_FAULT),
        ("EPERM: operation not permitted, unlink 'data/x'", Failure.NODE_FAULT),
        ("EIO: i/o error, read", Failure.NODE_FAULT),
        ("EMFILE: too many open files, open 'data/x'", Failure.NODE_FAULT),
        ("Could not start process (spawn /code/run.sh ENOENT)", Failure.NODE_FAULT),
        ("Could not start process (anything)", Failure.NODE_FAULT),
        ("Directory exists and we couldn't remove it.", Failure.NODE_FAULT),
        ("Could not archive .zip file, 7z exited with code 2", Failure.NODE_FAULT),
        ("", Failure.NOT_DELIVERED),
    ],
)
def test_a_nodes_error_text_is_read(text: str, failure: Failure) -> None:
    assert classify(text) is failure


@pytest.mark.parametrize(
    ("text", "seconds", "failure"),
    [
        ("Processing failed (99)", 1.0, Failure.AT_ONCE),
        ("Processing failed (99)", -0.001, Failure.AT_ONCE),
        ("Processing failed (99)", 3600.0, Failure.PROCESSING),
        ("Cannot process dataset", 1.0, Failure.PROCESSING),
        ("ENOSPC: no space left on device, write", 3600.0, Failure.NODE_FAULT),
    ],
)
def test_what_fails_at_once_with_words_that_are_not_known_deserves_a_second_opinion(
    text: str, seconds: float, failure: Failure
) -> None:
    assert classify(text, seconds) is failure


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (TokenRejected("token missing or rejected"), Failure.TOKEN),
        (NodeRefused("Invalid authentication IP: not allowed"), Failure.TOKEN),
        (NodeRefused('[{"name":"boundary","error":"Invalid value {broken (out of range)"}]'), Failure.REFUSED),
        (NodeRefused("Not enough memory"), Failure.REFUSED),
        (NodeRefused("EROFS: read-only file system, mkdir 'tmp/x'"), Failure.NODE_FAULT),
        (NodeRefused("2 images uploaded, but this node can only process up to 1."), Failure.TOO_MANY),
    ],
)
def test_a_refusal_is_that_of_a_task_unless_it_speaks_of_the_node(error: NodeRefused, failure: Failure) -> None:
    assert classify_refusal(error) is failure


def test_a_node_names_its_limit() -> None:
    assert told_limit("120 images uploaded, but this node can only process up to 100.") == 100
    assert told_limit("this node can only process up to many") is None


@given(st.sampled_from(Failure), st.text(max_size=40))
def test_a_reason_is_read_as_it_was_written(failure: Failure, detail: str) -> None:
    assert failure_of(describe(failure, detail)) is failure


def test_other_reasons_are_no_failures() -> None:
    assert failure_of("completed") is None
    assert len(describe(Failure.REFUSED, "x" * 9999)) < 600


@pytest.mark.parametrize(
    ("failure", "charged", "larger", "retried"),
    [
        (Failure.UNREACHABLE, 0, False, True),
        (Failure.UNREACHABLE, 2, False, False),
        (Failure.FORGOTTEN, 1, False, True),
        (Failure.DISPATCH, 2, False, True),
        (Failure.DISPATCH, 99, False, True),
        (Failure.INTERRUPTED, 99, False, True),
        (Failure.NODE_FAULT, 99, False, True),
        (Failure.TOKEN, 99, False, True),
        (Failure.TOO_MANY, 99, False, True),
        (Failure.REFUSED, 0, False, True),
        (Failure.REFUSED, 2, False, False),
        (Failure.NOT_DELIVERED, 0, False, True),
        (Failure.MEMORY, 0, True, True),
        (Failure.MEMORY, 0, False, False),
        (Failure.PROCESSING, 0, True, False),
        (Failure.FILES, 2, False, False),
        (Failure.MISCOUNTED, 99, False, True),
        (Failure.MISCOUNTS, 2, False, False),
    ],
)
def test_the_policy(failure: Failure, charged: int, larger: bool, retried: bool) -> None:
    verdict = decide(task(charged), failure, "why", 100.0, around(larger_exists=larger))
    assert isinstance(verdict, Again) is retried
    if isinstance(verdict, Again):
        assert verdict.charged == charged + RULES[failure].charged
        assert (verdict.not_before == 100.0) is RULES[failure].unseen
        assert verdict.larger is RULES[failure].larger
        assert not verdict.alone


@pytest.mark.parametrize("failure", [Failure.UNREACHABLE, Failure.FORGOTTEN])
def test_of_several_tasks_that_are_lost_together_none_is_charged_and_each_is_alone_next_time(failure: Failure) -> None:
    verdict = decide(task(2), failure, "", 0.0, around(with_others=True))
    assert isinstance(verdict, Again)
    assert (verdict.charged, verdict.alone) == (2, True)


def test_a_task_that_loses_a_node_while_it_is_alone_is_charged_whatever_else_is_lost() -> None:
    verdict = decide(task(0, alone=True), Failure.FORGOTTEN, "", 0.0, around(with_others=True))
    assert isinstance(verdict, Again)
    assert (verdict.charged, verdict.alone) == (1, True)


@given(st.sampled_from(Failure), st.booleans(), st.booleans(), st.booleans())
def test_no_task_is_retried_without_limit_for_reasons_that_may_lie_in_it(
    failure: Failure, larger: bool, with_others: bool, confirmed: bool
) -> None:
    circumstances = around(larger_exists=larger, with_others=with_others, confirmed=confirmed)
    now, ends = task(0, 0), 0
    for number in range(1, 40):
        now = task(now.charged, number, alone=now.alone)
        verdict = decide(now, failure, "why", 0.0, circumstances)
        if isinstance(verdict, Over):
            ends = number
            break
        now = task(verdict.charged, number, alone=verdict.alone)
    others_fault = {Failure.DISPATCH, Failure.INTERRUPTED, Failure.TOKEN, Failure.TOO_MANY, Failure.MOVED}
    others_fault |= {Failure.MACHINE, Failure.MISCOUNTED}  # of the last, a task has only a few before they are charged
    assert bool(ends) is (failure not in others_fault)
    assert ends <= PATIENCE + 3


@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.AT_ONCE])
def test_what_two_nodes_say_of_a_task_is_final(failure: Failure) -> None:
    assert decide(task(), failure, "its words", 0.0, around(confirmed=True)) == Over(error="its words")


def test_the_last_words_are_the_clusters_own_unless_the_node_speaks_of_the_data() -> None:
    verdict = decide(task(2, 4), Failure.FORGOTTEN, "f3c0 not found", 0.0, around())
    assert verdict == Over(error="the node no longer knows the task; given up after 4 attempts")
    assert decide(task(2, 1), Failure.UNREACHABLE, "", 0.0, around()) == Over(error=str(Failure.UNREACHABLE))
    data = decide(task(), Failure.PROCESSING, "Cannot process dataset", 0.0, around())
    assert data == Over(error="Cannot process dataset")


def test_every_failure_has_a_rule() -> None:
    assert set(RULES) == set(Failure)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_the_wait_grows_to_a_minute_at_most_and_chance_shortens_it(attempts: int, chance: float) -> None:
    verdict = decide(task(attempts=attempts), Failure.DISPATCH, "", 100.0, around(), chance)
    assert isinstance(verdict, Again)
    assert verdict.not_before == 100.0 + BACK_OFF.wait(attempts, chance)
    assert 100.0 < verdict.not_before <= 160.0


# Results that were not delivered


UPLOADED = "Cannot upload file to S3: Access Denied (AccessDenied), retrying... 6"


def test_results_that_a_node_could_not_pack_are_not_fetched() -> None:
    assert undelivered(restart_reason(RESTARTS), "Compressing all.zip\n", math.inf, 0.0) is None
    assert undelivered("", "Compressing all.zip", 0.0, 0.0) is None
    assert isinstance(undelivered("", "Compressing all.zip", math.inf, 0.0), Restart)
    assert is_packed(UPLOADED)


def test_a_node_that_could_not_deliver_results_begins_the_task_again_three_times_with_growing_waits() -> None:
    reason, waits = "", []
    while isinstance(step := undelivered(reason, UPLOADED, math.inf, 0.0), Restart):
        reason = step.reason
        waits.append(step.wait)
    assert waits == [60.0, 180.0, 540.0]
    assert restarts(reason) == RESTARTS
    assert step == Fetch("3 restarts did not help")


@given(st.integers(0, RESTARTS - 1), st.floats(0, 1))
def test_chance_makes_a_wait_shorter_by_half_at_most(number: int, chance: float) -> None:
    step = undelivered(restart_reason(number), "", math.inf, chance)
    assert isinstance(step, Restart)
    full = RESTART_BACK_OFF.wait(number + 1, 0.0)
    assert full / 2 <= step.wait <= full
    assert restarts(step.reason) == number + 1


def test_results_are_fetched_at_once_from_a_node_that_goes_away_before_a_restart_could_help() -> None:
    assert undelivered("", UPLOADED, 60.0 + RESTART_TAKES - 1, 0.0) == Fetch("its node is about to go away")
    assert isinstance(undelivered("", UPLOADED, 60.0 + RESTART_TAKES, 0.0), Restart)


@pytest.mark.parametrize(
    ("reason", "not_before", "phase", "awaits"),
    [
        (restart_reason(1), 9.0, Phase.RUNNING, True),
        (restart_reason(1), 0.0, Phase.RUNNING, False),
        ("", 9.0, Phase.RUNNING, False),
        (restart_reason(1), 9.0, Phase.FINISHED, False),
    ],
)
def test_a_restart_is_awaited_until_it_was_ordered(reason: str, not_before: float, phase: Phase, awaits: bool) -> None:
    attempt = Attempt(task="u", number=1, node_id=1, node_name="n", node_uuid="u", reason=reason)
    waits = Task(uuid="u", owner="o", phase=phase, not_before=not_before)
    assert awaits_restart(waits, attempt) is awaits
    assert not awaits_restart(waits, None)


def test_any_other_reason_of_an_attempt_is_no_restart() -> None:
    assert [restarts(reason) for reason in ("", "completed", restart_reason(2), f" {restart_reason(2)}")] == [
        0,
        0,
        2,
        0,
    ]
    assert failure_of(restart_reason(1)) is None
