# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The table of operations agrees with the functions, routes, verbs and commands that are made from it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any, get_type_hints

import pytest
import typer

from clusterodm.__main__ import load
from clusterodm.admin.operations.operation import Operation
from clusterodm.admin.operations.parameters import AnyMachineId, MachineId, NodeId, Nothing, TaskId, UploadId
from clusterodm.admin.operations.table import COMMANDS, OPERATIONS, ROUTES, VERBS
from clusterodm.admin.verbs import _ANSWERS
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Node
from clusterodm.core.machines import Machine

#: What functions get for the subject of an operation.
SUBJECTS: dict[type[Any], Any] = {NodeId: Node, TaskId: Entry, MachineId: Machine, AnyMachineId: str, UploadId: str}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_has_a_function_that_takes_its_parameters_and_returns_its_result(operation: Operation) -> None:
    hints = get_type_hints(operation.function)
    assert hints["return"] == operation.result
    _, *names = inspect.signature(operation.function).parameters
    if operation.subject is not Nothing:
        assert hints[names.pop(0)] == SUBJECTS[operation.subject]
    fields = list(operation.parameters.__struct_fields__)
    assert fields == names[: len(fields)]
    rest = [inspect.signature(operation.function).parameters[name] for name in names[len(fields) :]]
    assert all(each.default is not inspect.Parameter.empty for each in rest)
    types = get_type_hints(operation.parameters)
    assert {name: types[name] for name in fields if name != "labels"} == {
        name: hints[name] for name in fields if name != "labels"
    }


def test_no_two_operations_have_the_same_name_route_verb_or_command() -> None:
    for rows in (
        [operation.name for operation in OPERATIONS],
        [operation.route for operation in ROUTES],
        [operation.verb.words for operation in OPERATIONS if operation.verb],
        [operation.command for operation in OPERATIONS if operation.command],
    ):
        assert len(set(rows)) == len(rows)


def test_every_answer_of_the_shell_belongs_to_a_verb() -> None:
    assert set(_ANSWERS) <= set(VERBS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_table_exists_with_its_summary(command: str) -> None:
    group, _, name = command.partition(" ")
    command_object = load(group)
    if isinstance(command_object, typer.Typer):
        info = next(
            each for each in command_object.registered_commands if each.name in (name, None) and _name(each) == name
        )
        text = info.help or (info.callback.__doc__ if info.callback else "")
    else:
        text = command_object.__doc__
    assert text is not None
    assert text.startswith(COMMANDS[command].summary.rstrip("."))


def _name(command: Any) -> str:
    return str(command.name or command.callback.__name__)


def test_the_command_line_does_not_load_the_cluster() -> None:
    code = "import sys, clusterodm.commands.node; print([m for m in sys.modules if m.startswith('clusterodm.cluster')])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"
