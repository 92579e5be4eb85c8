# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Text of clients, nodes and providers on the terminal of a command: printed as it is, whatever it looks like."""

from __future__ import annotations

import ast
import enum
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from rich.console import Console

from clusterodm.admin import views
from clusterodm.commands import doctor, machine, node, operated, queue, remote, status, submit, task, upload
from clusterodm.commands.finding import Finding
from clusterodm.core.nodes import parse_address
from tests.support import Rig

COMMANDS = Path(remote.__file__).parent
#: Markup that is none, a closing tag that breaks a line of markup, a link, and what moves a terminal's cursor.
NASTY = "[/red] [bold]field[/] [link=http://evil.example]x[/link] \\\x1b[2J\r"
SHOWN = "[/red] [bold]field[/] [link=http://evil.example]x[/link] \\ [2J"


def filled(kind: Any) -> Any:
    """A value of a type with nasty text wherever text may be."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list:
        return [filled(inner[0])]
    if origin is dict:
        return {NASTY: NASTY}
    if origin in (Union, types.UnionType):
        return filled(str if str in inner else inner[0])
    if issubclass(kind, enum.Enum):
        return next(iter(kind))
    if issubclass(kind, msgspec.Struct):
        return kind(**{name: filled(hint) for name, hint in get_type_hints(kind).items()})
    return NASTY if kind is str else kind(1)


SHOWS: list[tuple[Callable[[Any], None], Any]] = [
    (node._print_list, list[views.NodeView]),
    (node._print_state, views.NodeView),
    (node._print_name, views.NodeView),
    (task._print_page, views.TaskPage),
    (task._print_detail, views.TaskDetail),
    (task._print_why, views.Why),
    (upload._print_page, views.UploadPage),
    (machine._print_list, list[views.MachineView]),
    (machine._print_detail, views.MachineDetail),
    (machine._print_plan, views.MachinePlan),
    (machine._print_costs, list[views.CostView]),
    (queue._print_queue, list[views.TaskView]),
    (status._print, views.ClusterStatus),
    (operated.print_done, views.Done),
]


@pytest.mark.parametrize(("show", "kind"), SHOWS, ids=lambda each: getattr(each, "__qualname__", ""))
def test_markup_and_control_characters_in_text_of_others_are_printed_as_they_are(
    show: Callable[[Any], None], kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(width=4000, force_terminal=True, color_system=None, record=True, soft_wrap=True)
    for module in (remote, operated, node, task, upload, machine, status):
        monkeypatch.setattr(module, "screen", terminal, raising=False)
    show(filled(kind))
    text = terminal.export_text(styles=False)
    assert SHOWN in text
    assert "\x1b[2J" not in text


def test_findings_of_the_doctor_are_printed_as_they_are() -> None:
    terminal = Console(width=4000, record=True)
    for cell in doctor._row(Finding(NASTY, "error", NASTY, NASTY)):
        terminal.print(cell)
    assert terminal.export_text().count(SHOWN) == 3


async def test_submit_prints_the_words_of_a_node_as_they_are(cluster: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    await cluster.start()
    work = submit.Submission(address=parse_address(cluster.cluster.url), uuid=NASTY, files=[], wait=False)
    terminal = Console(width=4000, force_terminal=True, color_system=None, record=True)
    await submit.carry_out(work, terminal)
    assert f"task {SHOWN}" in terminal.export_text(styles=False)
    assert "\x1b[2J" not in capsys.readouterr().out


def interpolations(call: ast.Call) -> Iterator[ast.expr]:
    """What is put into the text of a call that prints markup."""
    for text in call.args:
        if isinstance(text, ast.JoinedStr):
            yield from (part.value for part in text.values if isinstance(part, ast.FormattedValue))


#: What the program itself makes, in texts that have markup.
OURS = {"cluster.url", "cluster.admin_url", "cluster.shell_port", "len", "escape", "page.total", "page.bytes"}


def test_no_command_prints_text_as_markup_that_is_not_made_safe() -> None:
    unsafe = []
    for path in COMMANDS.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "print"):
                continue
            if any(word.arg == "markup" and ast.unparse(word.value) == "False" for word in call.keywords):
                continue
            for value in interpolations(call):
                name = ast.unparse(value.func) if isinstance(value, ast.Call) else ast.unparse(value)
                if name not in OURS and "join" not in name:
                    unsafe.append(f"{path.name}:{value.lineno} {name}")
            unsafe += [f"{path.name}:{call.lineno}" for each in call.args if isinstance(each, ast.Attribute)]
    assert unsafe == []
