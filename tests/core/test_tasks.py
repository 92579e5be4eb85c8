# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The life of a task, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.errors import StaleTask
from clusterodm.core.ids import is_task_id
from clusterodm.core.tasks import (
    ACTIVE,
    COMPLETED,
    TRANSITIONS,
    Attempt,
    Cleanup,
    Outcome,
    Phase,
    Stage,
    Task,
    has_results,
    is_submodel,
    node_uuid,
    require_transition,
    shown_code,
    task_info,
    visible,
)

UUID = "32ffd3e3-5386-40b9-978f-0221804788c9"


def task(phase: Phase = Phase.QUEUED, **fields: object) -> Task:
    return Task(uuid=UUID, owner="o", phase=phase, **fields)  # type: ignore[arg-type]


@given(st.sampled_from(Phase), st.sampled_from(Phase))
def test_only_edges_of_the_table_are_allowed(source: Phase, to: Phase) -> None:
    if to in TRANSITIONS[source]:
        require_transition(source, to)
    else:
        with pytest.raises(StaleTask):
            require_transition(source, to)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.REMOVED])
def test_every_phase_can_be_removed(phase: Phase) -> None:
    assert Phase.REMOVED in TRANSITIONS[phase]


@pytest.mark.parametrize("phase", sorted(ACTIVE - {Phase.RECEIVING}))
def test_every_committed_phase_can_reach_the_end(phase: Phase) -> None:
    reached, frontier = {phase}, {phase}
    while frontier:
        frontier = {to for source in frontier for to in TRANSITIONS[source]} - reached
        reached |= frontier
    assert Phase.FINISHED in reached


@pytest.mark.parametrize(
    ("phase", "fields", "code"),
    [
        (Phase.QUEUED, {}, 10),
        (Phase.QUEUED, {"submodel": True}, 20),
        (Phase.QUEUED, {"node_code": 20}, 20),
        (Phase.DISPATCHING, {}, 20),
        (Phase.RUNNING, {}, 20),
        (Phase.RUNNING, {"node_code": 10}, 10),
        (Phase.RUNNING, {"node_code": 10, "submodel": True}, 20),
        (Phase.RUNNING, {"node_code": 30}, 20),
        (Phase.COLLECTING, {"node_code": 40}, 20),
        (Phase.FINISHED, {"outcome": Outcome.COMPLETED}, 40),
        (Phase.FINISHED, {"outcome": Outcome.FAILED, "submodel": True}, 30),
        (Phase.FINISHED, {"outcome": Outcome.CANCELED}, 50),
    ],
)
def test_what_a_client_is_shown(phase: Phase, fields: dict[str, object], code: int) -> None:
    assert shown_code(task(phase, **fields)) == code


def test_a_task_is_invisible_before_its_commit_and_after_its_removal() -> None:
    assert [phase for phase in Phase if not visible(task(phase))] == [Phase.RECEIVING, Phase.REMOVED]


def test_info_never_has_the_key_error_and_counts_in_integers() -> None:
    info = task_info(task(Phase.FINISHED, outcome=Outcome.FAILED, error="why", progress=12.0))
    assert "error" not in info
    assert info["status"] == {"code": 30, "errorMessage": "why"}
    assert all(type(info[key]) is int for key in ("processingTime", "imagesCount", "dateCreated", "progress"))


def test_only_a_date_that_its_client_gave_is_a_given_one() -> None:
    assert task(date_created=5_000, committed_at=5.0).given_date == 0
    assert task(date_created=4_000, committed_at=5.0).given_date == 4_000


def test_progress_of_a_completed_task_is_100_and_fractions_stay() -> None:
    assert task_info(task(Phase.FINISHED, outcome=Outcome.COMPLETED, progress=3))["progress"] == 100
    assert task_info(task(Phase.RUNNING, progress=34.5))["progress"] == 34.5


@given(st.integers(1, 50))
def test_each_attempt_has_a_valid_uuid_of_its_own(number: int) -> None:
    uuids = {node_uuid(UUID, n) for n in range(1, number + 1)}
    assert len(uuids) == number
    assert all(is_task_id(uuid) for uuid in uuids)
    assert UUID in uuids


@pytest.mark.parametrize(
    ("outputs", "skip", "names", "expected"),
    [
        ([], False, ["a.jpg"], False),
        ([], False, ["a.jpg", "seed.zip"], True),
        (["odm_dem"], True, [], True),
        (["odm_dem"], False, [], False),
        ([], True, [], False),
    ],
)
def test_submodels_are_told_by_what_they_bring(
    outputs: list[str], skip: bool, names: list[str], expected: bool
) -> None:
    assert is_submodel(outputs, skip, names) is expected


def attempt(**terms: object) -> Attempt:
    return Attempt(task="t", number=1, node_id=1, node_name="n", node_uuid="t", started_at=10.0, **terms)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("phase", "outcome", "reason", "fetchable"),
    [
        (Phase.FINISHED, Outcome.COMPLETED, COMPLETED, True),
        (Phase.FINISHED, Outcome.CANCELED, COMPLETED, True),  # canceled after it had completed
        (Phase.FINISHED, Outcome.CANCELED, "canceled", False),
        (Phase.FINISHED, Outcome.FAILED, "failed", False),
        (Phase.COLLECTING, None, COMPLETED, False),
    ],
)
def test_results_are_those_of_a_completed_attempt(
    phase: Phase, outcome: Outcome | None, reason: str, fetchable: bool
) -> None:
    task = Task(uuid="t", owner="o", phase=phase, outcome=outcome)
    assert has_results(task, attempt(reason=reason)) is fetchable
    assert has_results(task, None) is (outcome is Outcome.COMPLETED)


def test_an_attempt_ends_once_and_never_before_its_start() -> None:
    running = attempt(stage=Stage.RUNNING)
    assert running.ended(5.0, "lost", Cleanup.NONE).ended_at == 10.0
    over = running.ended(20.0, "lost", Cleanup.NONE)
    assert (over.stage, over.ended_at, over.reason) == (Stage.ENDED, 20.0, "lost")
    assert over.ended(30.0, "lost", Cleanup.NONE).ended_at == 20.0
