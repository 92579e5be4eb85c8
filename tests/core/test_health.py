# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether a node is ill."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.health import FIRST, LONGEST_DOUBT, WELL, Health
from clusterodm.core.nodes import LONGEST_SET_ASIDE
from clusterodm.core.retry import Failure

SICK = Health(failed=("x",))


def after(*ends: tuple[str, Failure, float], others: list[Health] | None = None, start: Health = WELL) -> Health:
    """The health of a node after these ends, each a second later."""
    health = start
    for second, (task, failure, seconds) in enumerate(ends):
        words = f"{task} failed"
        health = health.failed_task(task, failure, words, 100.0 + second, seconds=seconds, others=others or [])
    return health


@pytest.mark.parametrize("failure", [Failure.NODE_FAULT, Failure.TOKEN])
def test_a_node_that_says_that_it_is_ill_is_set_aside_at_once(failure: Failure) -> None:
    health = after(("a", failure, -0.001))
    assert (health.until, health.times, health.words) == (100.0 + FIRST, 1, "a failed")


def test_a_node_that_cannot_run_the_engine_is_set_aside_for_long() -> None:
    assert after(("a", Failure.HARDWARE, 1.0)).until == 100.0 + LONGEST_SET_ASIDE


@pytest.mark.parametrize("failure", [Failure.AT_ONCE, Failure.PROCESSING, Failure.NOT_DELIVERED])
def test_a_node_that_fails_two_tasks_within_seconds_does_not_get_a_third(failure: Failure) -> None:
    assert not after(("a", failure, 1.0)).until
    assert not after(("a", failure, 1.0), ("a", failure, 1.0)).until  # the same task twice says nothing of the node
    assert after(("a", failure, 1.0), ("b", failure, 1.0)).until == 101.0 + FIRST


def test_data_that_turn_out_to_be_bad_after_a_long_time_say_nothing_of_the_node() -> None:
    assert after(*((task, Failure.PROCESSING, 3600.0) for task in "abcdef")) == WELL
    assert after(("a", Failure.MEMORY, 1.0), ("b", Failure.UNREACHABLE, 1.0)) == WELL


def test_tasks_that_fail_everywhere_are_at_fault_themselves() -> None:
    ends = [(task, Failure.AT_ONCE, 1.0) for task in "abcdef"]
    assert not after(*ends, others=[SICK]).until
    assert not after(*ends, others=[SICK, SICK, WELL]).until
    assert after(*ends, others=[SICK, WELL]).until


def test_what_a_node_refuses_counts_only_once_another_one_has_completed_it() -> None:
    health = after(*((task, Failure.REFUSED, -0.001) for task in "abcdef"))
    assert not health.until
    health = health.completed_elsewhere("a", 110.0, [])
    assert not health.until
    assert health.completed_elsewhere("a", 110.0, []) is health
    assert health.completed_elsewhere("b", 111.0, []).until == 111.0 + FIRST


def test_a_task_that_was_at_fault_itself_is_held_against_no_node() -> None:
    health = after(("a", Failure.AT_ONCE, 1.0), ("r", Failure.REFUSED, 1.0)).absolved("a").absolved("r")
    assert (health.failed, health.doubted) == ((), ())


def test_tasks_that_end_while_their_node_is_set_aside_already_do_not_prolong_it() -> None:
    ends = [(task, Failure.NODE_FAULT, 1.0) for task in "abcdef"]
    assert (after(*ends).until, after(*ends).times) == (100.0 + FIRST, 1)


@given(st.lists(st.sampled_from([Failure.NODE_FAULT, Failure.AT_ONCE, Failure.HARDWARE]), max_size=20))
def test_an_ill_node_is_set_aside_for_longer_each_time_but_not_for_ever(failures: list[Failure]) -> None:
    health, now = SICK, 0.0
    for number, failure in enumerate(failures):
        before = health
        health = health.failed_task(str(number), failure, "", now, seconds=1.0, others=[])
        assert health.times == before.times + 1
        longest = LONGEST_DOUBT if failure is Failure.AT_ONCE else LONGEST_SET_ASIDE
        first = LONGEST_SET_ASIDE if failure is Failure.HARDWARE else FIRST
        assert health.until - now == min(longest, first * 2**before.times)
        assert len(health.failed) <= 10
        now = health.until
