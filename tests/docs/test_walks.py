# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands of the documentation are run, as they stand there, and its configurations are read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import typer

from clusterodm.__main__ import COMMANDS, build_app
from clusterodm.aio import Clock
from clusterodm.auth.tokens import read_tokens
from clusterodm.observe import Metrics
from clusterodm.providers import make_fleet
from tests.docs.pages import ELSEWHERE, NOWHERE, PAGES, TOP, commands, walked
from tests.needs import NEEDS, need
from tests.processes import without_settings
from tests.providers.support import kubeconfig

WALKED = [page for page in PAGES if any(map(walked, commands(page)))]
OWN = ["unshare", "--net"]


def named(page: Path) -> str:
    return str(page.relative_to(TOP))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", WALKED, ids=named)
def test_the_commands_of_a_page_work(page: Path, tmp_path: Path) -> None:
    need("ip", root=True)
    if subprocess.run([*OWN, "true"], check=False).returncode:
        pytest.skip(f"{NEEDS}the right to make networks (CAP_SYS_ADMIN)")
    words = [*OWN, sys.executable, "-m", "tests.docs.walk", str(page), str(tmp_path)]
    environ = without_settings()
    process = subprocess.run(words, check=False, cwd=TOP, env=environ, capture_output=True, text=True, timeout=170)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.parametrize("pattern", [*ELSEWHERE, *NOWHERE])
def test_what_a_walk_leaves_out_is_still_on_a_page(pattern: str) -> None:
    assert any(re.match(pattern, command) for page in PAGES for command in commands(page))
    assert pattern in NOWHERE or (TOP / ELSEWHERE[pattern]).exists()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_stand_in_blocks_of_commands(page: Path) -> None:
    """So that none is overlooked."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    loose = re.findall(r"^ {4,}(?:sudo |\$ )?(?:clusterodm|make|curl|pip|docker|kubectl|helm) .*", text, re.MULTILINE)
    assert loose == []


PROGRAM: Any = typer.main.get_command(build_app())


def options_of(words: list[str]) -> set[str]:
    """The options of a command that is named on a page. Fails when there is no such command."""
    command = PROGRAM.commands[words[0]]
    inner = getattr(command, "commands", {})
    if inner and len(words) > 1:
        assert words[1] in inner or not words[1].isalpha(), words
        command = inner.get(words[1], command)
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_in_the_text_exist(page: Path) -> None:
    for text in re.findall(r"`clusterodm ([a-z][^`]*)`", page.read_text()):
        words = text.split()
        if words[0] in ("--port", "..."):
            continue
        assert words[0] in COMMANDS, text
        flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert words[0] == "serve" or flags <= options_of(words), text


CONFIGURED = [
    (page, number)
    for page in PAGES
    for number, block in enumerate(re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL))
    if "imageSizeMapping" in block
]


@pytest.mark.parametrize(
    ("page", "number"), CONFIGURED, ids=lambda value: named(value) if isinstance(value, Path) else None
)
async def test_files_of_the_autoscaler_are_taken(page: Path, number: int, tmp_path: Path) -> None:
    block = re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL)[number]
    await _taken(json.loads(block), tmp_path)


async def test_the_shipped_file_for_slurm_is_taken(tmp_path: Path) -> None:
    await _taken(json.loads((TOP / "deploy/slurm/asr.json").read_text()), tmp_path)


async def _taken(entry: dict[str, Any], folder: Path) -> None:
    text = json.dumps(entry).replace("CHANGEME!", "hush-made-up").replace('"..."', '"hush-made-up"')
    entry = json.loads(text)
    if entry.get("provider") == "kubernetes":
        entry["kubeconfig"] = str(kubeconfig(folder, "https://127.0.0.1:1"))
    (folder / "asr.json").write_text(json.dumps(entry))
    async with aiohttp.ClientSession() as session:
        fleet = make_fleet(folder / "asr.json", session, Metrics(), Clock())
        assert all(provider.offerings for provider in fleet.providers.values())
        for provider in fleet.providers.values():
            await provider.close()


def test_the_file_of_tokens_is_taken() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", (TOP / "docs/tokens.md").read_text(), re.DOTALL)
    assert {grant.owner for grant in read_tokens(block.encode()).values()} == {"alice", "bob"}


def test_the_site_is_built_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    process = subprocess.run(list(map(str, words)), check=False, cwd=TOP, capture_output=True, text=True, env=environ)
    assert process.returncode == 0, process.stderr
    page = (tmp_path / "site/how-to/tls/index.html").read_text()
    assert "deploy/proxies/nginx.conf" in page
    assert 'href="../../replicas/"' in page
    assert (tmp_path / "site/contributing/index.html").exists()
