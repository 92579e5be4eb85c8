"""Documentation that cannot go out of date unnoticed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs.generate import PAGES

from clusterodm.__main__ import COMMANDS
from clusterodm.core.tasks import Phase
from clusterodm.settings import Settings, env_name, flag_name

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ALL = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"]


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


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_that_pages_name_exist(page: Path) -> None:
    flags = set(re.findall(r"`(--[a-z][a-z0-9-]+)", page.read_text()))
    known = {f"--{flag_name(field)}" for field in Settings.model_fields} | _other_flags()
    assert flags <= known, flags - known


def _other_flags() -> set[str]:
    sources = "".join(path.read_text() for path in (ROOT / "src/clusterodm/commands").glob("*.py"))
    names = set(re.findall(r"^    (\w+): Annotated", sources, re.MULTILINE))
    return {f"--{name.replace('_', '-')}" for name in names} | {"--help", "--config"}
