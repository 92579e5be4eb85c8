# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What may change in a record has the names and types that the record has."""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec
import pytest

from clusterodm.core.changes import AttemptChanges, MachineChanges, NodeChanges, NodeTerms, Progress, TaskChanges
from clusterodm.core.machines import Machine
from clusterodm.core.nodes import NodeRecord
from clusterodm.core.tasks import Attempt, Task
from clusterodm.store import schema


@pytest.mark.parametrize(
    ("changes", "record", "fixed"),
    [
        (TaskChanges, Task, {"uuid", "phase", "created_at", "version"}),
        (AttemptChanges, Attempt, {"task", "number", "node_id", "node_name", "node_uuid"}),
        (MachineChanges, Machine, {"id", "provider", "state", "ordered_at"}),
        (NodeChanges, NodeRecord, {"id"}),
    ],
)
def test_all_columns_but_those_that_a_record_is_known_by_may_change(
    changes: Any, record: type[msgspec.Struct], fixed: set[str]
) -> None:
    hints = get_type_hints(record)
    columns = {name: hints[name] for name in record.__struct_fields__ if name not in fixed}
    assert get_type_hints(changes) == columns


def test_what_a_node_says_of_a_task_and_the_terms_of_a_node_are_columns() -> None:
    assert get_type_hints(Progress).items() <= get_type_hints(TaskChanges).items()
    assert get_type_hints(NodeTerms).items() <= get_type_hints(NodeChanges).items()
    assert set(Progress.__annotations__) <= set(schema.tasks.c.keys())
