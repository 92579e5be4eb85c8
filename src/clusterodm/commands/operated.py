# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Commands made from the table of operations: arguments, options and help come from its rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, get_args, get_type_hints

import typer
from msgspec import Meta

from clusterodm.admin.operations.operation import Operation
from clusterodm.admin.operations.parameters import AnyMachineId, MachineId, NodeId, TaskId, UploadId
from clusterodm.admin.operations.table import COMMANDS
from clusterodm.admin.views import Done
from clusterodm.commands.remote import DEFAULT_URL, AsJson, Password, Url, admin, find_node, print_json, print_text, run

#: Name and help of the argument that is the subject.
_SUBJECTS: Final = {
    NodeId: ("name", "host:port, or the number in the list."),
    TaskId: ("uuid", "Id of a task, or a unique prefix of it."),
    UploadId: ("uuid", "Id of an upload, or a unique prefix of it."),
    MachineId: ("name", "Id of a machine, or a unique suffix of it."),
    AnyMachineId: ("name", "Id of a machine, or a unique suffix of it."),
}
_CONNECTION: Final = {"url": (Url, DEFAULT_URL), "password": (Password, ""), "json": (AsJson, False)}

Show = Callable[[Any], None]
Fails = Callable[[Any], bool]


def print_done(done: Done) -> None:
    """Print what has happened."""
    print_text(done.text)


def make_command(
    name: str, show: Show = print_done, *, text: str = "", fails: Fails = lambda result: False, **defaults: Any
) -> Callable[..., None]:
    """Make the command of an operation, which prints its result with `show` and exits with 1 if `fails`. Defaults
    replace those of the API."""
    operation = COMMANDS[name]
    parameters = [*_subject(operation), *_parameters(operation, defaults), *_connection()]

    def command(**arguments: Any) -> None:
        if fails(run(_carry_out(operation, show, arguments))):
            raise typer.Exit(1)

    command.__name__ = name.rpartition(" ")[2]
    command.__doc__ = text or operation.summary
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def add_commands(group: typer.Typer, name: str, commands: Iterable[tuple[str, Show]]) -> None:
    """Add commands of operations to a group."""
    for word, show in commands:
        group.command(word)(make_command(f"{name} {word}", show))


async def _carry_out(operation: Operation, show: Show, arguments: dict[str, Any]) -> Any:
    url, password, json = (arguments.pop(name) for name in _CONNECTION)
    name, _ = _SUBJECTS.get(operation.subject, ("", ""))
    subject = arguments.pop(name, "")
    async with admin(url, password) as api:
        if operation.subject is NodeId:
            subject = (await find_node(api, subject)).id
        result = await api.call(operation, subject, **arguments)
    if json:
        print_json(result)
    else:
        show(result)
    return result


def _subject(operation: Operation) -> list[inspect.Parameter]:
    if operation.subject not in _SUBJECTS:
        return []
    name, text = _SUBJECTS[operation.subject]
    return [_parameter(name, Annotated[str, typer.Argument(help=text)])]


def _parameters(operation: Operation, defaults: dict[str, Any]) -> list[inspect.Parameter]:
    """Return an argument for each required parameter, an option for each other one."""
    hints = get_type_hints(operation.parameters, include_extras=True)
    fields = inspect.signature(operation.parameters).parameters
    parameters = []
    for name, hint in hints.items():
        kind, meta = get_args(hint)[0], next(each for each in get_args(hint)[1:] if isinstance(each, Meta))
        bounds: dict[str, Any] = {"min": meta.ge, "max": meta.le} if kind in (int, float) else {}
        default = defaults.get(name, fields[name].default)
        if default is inspect.Parameter.empty:
            parameters.append(_parameter(name, Annotated[kind, typer.Argument(help=meta.description, **bounds)]))
        else:
            parameters.append(_parameter(name, Annotated[kind, typer.Option(help=meta.description, **bounds)], default))
    return parameters


def _connection() -> list[inspect.Parameter]:
    return [_parameter(name, annotation, default) for name, (annotation, default) in _CONNECTION.items()]


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
