# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long submodels live, and which address the engine can use."""

from __future__ import annotations

from typing import Any

import pytest

from clusterodm.core.options import split_cluster, with_job_token
from clusterodm.core.splitmerge import GRACE, Fate, fate, is_under_way, stuck, unusable
from clusterodm.core.tasks import Outcome, Phase, Task


def job(phase: Phase, attempts: int = 2, outcome: Outcome | None = None) -> Task:
    """A job in its second attempt."""
    return Task(uuid="j", owner="o", phase=phase, attempts=attempts, outcome=outcome)


COMPLETED = job(Phase.FINISHED, outcome=Outcome.COMPLETED)
CANCELED = job(Phase.FINISHED, outcome=Outcome.CANCELED)
FAILED = job(Phase.FINISHED, outcome=Outcome.FAILED)
RUNNING = job(Phase.RUNNING)


@pytest.mark.parametrize(
    ("phase", "attempt", "of", "age", "expected"),
    [
        (Phase.RUNNING, 2, RUNNING, 0, Fate.STAYS),
        (Phase.RECEIVING, 2, job(Phase.COLLECTING), 0, Fate.STAYS),
        (Phase.RUNNING, 1, RUNNING, 0, Fate.CANCEL),
        (Phase.FINISHED, 1, RUNNING, 0, Fate.STAYS),
        (Phase.FINISHED, 1, RUNNING, GRACE, Fate.REMOVE),
        (Phase.QUEUED, 2, job(Phase.QUEUED), 0, Fate.CANCEL),
        (Phase.DISPATCHING, 2, CANCELED, 0, Fate.CANCEL),
        (Phase.RUNNING, 2, FAILED, 0, Fate.CANCEL),
        (Phase.RECEIVING, 2, FAILED, 0, Fate.REMOVE),
        (Phase.COLLECTING, 2, FAILED, 0, Fate.STAYS),
        (Phase.COLLECTING, 2, FAILED, GRACE, Fate.REMOVE),
        (Phase.RUNNING, 2, COMPLETED, GRACE - 1, Fate.STAYS),
        (Phase.RUNNING, 1, COMPLETED, 0, Fate.CANCEL),
        (Phase.RUNNING, 2, COMPLETED, GRACE, Fate.REMOVE),
        (Phase.RUNNING, 2, job(Phase.REMOVED), 0, Fate.REMOVE),
        (Phase.FINISHED, 2, None, 0, Fate.REMOVE),
    ],
)
def test_submodels_live_as_long_as_the_attempt_that_sent_them(
    phase: Phase, attempt: int, of: Task | None, age: float, expected: Fate
) -> None:
    task = Task(uuid="s", owner="o#j", phase=phase, job="j", job_attempt=attempt)
    assert fate(task, of, age) is expected


def test_an_attempt_is_under_way_while_its_job_is_on_a_node() -> None:
    assert is_under_way(RUNNING, 2)
    assert not is_under_way(RUNNING, 1)
    assert not is_under_way(job(Phase.QUEUED), 2)


@pytest.mark.parametrize(
    ("address", "hosts", "expected"),
    [
        ("http://maps.example:3000", ["10.0.0.2"], ""),
        ("https://maps.example", ["10.0.0.2"], ""),
        ("https://maps.example:443", ["10.0.0.2"], ""),
        ("http://10.0.0.1:3000", ["127.0.0.1", "10.0.0.2"], ""),
        ("http://127.0.0.1:3000", ["127.0.0.1", "localhost", "::1"], ""),
        ("http://localhost:3000", [], ""),
        ("http://localhost:3000", ["127.0.0.1", "10.0.0.2"], "nodes on other hosts cannot reach it"),
        ("http://LOCALHOST.:3000", ["node-1"], "nodes on other hosts cannot reach it"),
        ("http://cluster.localhost:3000", ["node-1"], "nodes on other hosts cannot reach it"),
        ("http://127.8.0.1:3000", ["node-1"], "nodes on other hosts cannot reach it"),
        ("http://0.0.0.0:3000", ["node-1"], "nodes on other hosts cannot reach it"),
        ("http://mylocalhost:3000", ["node-1"], ""),
        ("https://maps.example:3443", ["10.0.0.2"], "the engine speaks HTTPS on port 443 only, not on 3443"),
        ("http://maps.example:443", ["10.0.0.2"], "the engine speaks HTTPS on port 443"),
        ("http://[fd00::1]:3000", ["fd00::2"], "the engine cannot use an IPv6 address; a host name is needed"),
        ("http://maps.example:99999", ["10.0.0.2"], "its port is none"),
    ],
)
def test_an_address_that_the_engine_cannot_use_is_told(address: str, hosts: list[str], expected: str) -> None:
    assert unusable(address, hosts) == expected


def test_the_token_goes_to_the_node_alone() -> None:
    options: list[dict[str, Any]] = [{"name": "split", "value": 1}, {"name": "sm-cluster", "value": "http://us:3000"}]
    assert with_job_token(options, "job.a.1.b")[1]["value"] == "http://us:3000/?token=job.a.1.b"
    assert split_cluster(options) == "http://us:3000"
    assert with_job_token(options[:1], "job.a.1.b") == options[:1]
    old = [options[0], {"name": "sm-cluster", "value": "http://us:3000/?token=job.a.c"}]
    assert with_job_token(old, "job.a.1.b") == with_job_token(options, "job.a.1.b")


def test_submodels_wait_in_vain_while_nothing_but_jobs_is_on_nodes() -> None:
    options: list[dict[str, Any]] = [{"name": "sm-cluster", "value": "http://us:3000"}]
    on_node = Task(uuid="j", owner="o", phase=Phase.RUNNING, options=options)
    waits = Task(uuid="s", owner="o#j", phase=Phase.QUEUED, job="j", submodel=True)
    other = Task(uuid="t", owner="o#j", phase=Phase.DISPATCHING, job="j", submodel=True)
    ordinary = Task(uuid="u", owner="p", phase=Phase.QUEUED)
    given_back = Task(uuid="v", owner="o#j", phase=Phase.QUEUED, job="j")
    assert stuck([on_node, waits, ordinary, given_back]) == ["s"]
    assert stuck([on_node, waits, other]) == []
    assert stuck([]) == []
