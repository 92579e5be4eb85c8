# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Documentation that cannot go out of date unnoticed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer
from docs.generate import PAGES

from clusterodm.__main__ import COMMANDS, load
from clusterodm.admin.operations.table import COMMANDS as COMMAND_ROWS
from clusterodm.core.tasks import Phase
from clusterodm.settings import Settings, env_name, flag_name, is_switch

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ALL = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_has_an_entry(field: str) -> None:
    page = (DOCS / "settings.md").read_text()
    assert f"`--{flag_name(field)}`" in page
    assert f"`{env_name(field)}`" in page


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_section(command: str) -> None:
    assert f"## `clusterodm {command}`" in (DOCS / "commands.md").read_text()


def _subcommands() -> list[str]:
    groups = {name: load(name) for name in COMMANDS}
    return [
        f"{name} {command.name or command.callback.__name__}"
        for name, group in groups.items()
        if isinstance(group, typer.Typer)
        for command in group.registered_commands
        if command.callback is not None
    ]


@pytest.mark.parametrize("command", _subcommands())
def test_every_command_of_a_group_has_an_entry(command: str) -> None:
    assert f"`clusterodm {command}" in (DOCS / "commands.md").read_text()


#: Methods whose text goes into a timeline.
_TELLING = {"add", "add_task", "advance", "finish", "change", "note", "_remove", "_now_running"}


def _timeline_texts() -> set[str]:
    """The longest fixed part of every text that is written into a timeline."""
    parts = set()
    for folder in ("cluster", "admin"):
        for path in (ROOT / "src/clusterodm" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                texts: list[ast.expr] = []
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _TELLING:
                    texts = node.args
                elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "text":
                    texts = [node.value]
                parts |= {part for text in texts for part in _fixed(text)}
    return parts


def _fixed(text: ast.expr) -> list[str]:
    values = text.values if isinstance(text, ast.JoinedStr) else [text]
    parts = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return [max(parts, key=len).strip(" ;:(,")] if parts and " " in max(parts, key=len) else []


def test_every_line_of_a_timeline_has_an_entry() -> None:
    page = (DOCS / "timeline.md").read_text()
    texts = _timeline_texts()
    assert len(texts) > 15
    assert {text for text in texts if text not in page} == set()


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_in_the_glossary(phase: Phase) -> None:
    assert str(phase) in (DOCS / "glossary.md").read_text()


def test_every_decision_is_listed() -> None:
    listed = (DOCS / "decisions" / "README.md").read_text()
    assert all(page.name in listed for page in (DOCS / "decisions").glob("0*.md"))


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def _before(field: str) -> list[str]:
    return ["", "no-"] if is_switch(field) else [""]


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_that_pages_name_exist(page: Path) -> None:
    flags = set(re.findall(r"`(--[a-z][a-z0-9-]+)", page.read_text()))
    known_flags = {f"--{before}{flag_name(field)}" for field in Settings.model_fields for before in _before(field)}
    known_flags |= _other_flags()
    assert flags <= known_flags, flags - known_flags


def _other_flags() -> set[str]:
    sources = "".join(path.read_text() for path in (ROOT / "src/clusterodm/commands").glob("*.py"))
    names = set(re.findall(r"^    (\w+): Annotated", sources, re.MULTILINE))
    written = re.findall(r'typer\.Option\(\s*((?:"--?[a-z-]+",\s*)+)', sources)
    own_flags = {flag for names in written for flag in re.findall(r"--[a-z-]+", names)}
    names |= {name for operation in COMMAND_ROWS.values() for name in operation.parameters.__struct_fields__}
    return (
        {f"--{name.replace('_', '-')}" for name in names} | own_flags | {"--help", "--config", "--install-completion"}
    )
