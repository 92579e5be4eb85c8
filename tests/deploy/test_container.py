# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The container: its recipe and its locked versions are looked at, and with CONTAINER=1 (`make container`) it is built
for real, on a base of Debian's packages, and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clusterodm import __version__
from clusterodm.admin.password import with_password
from clusterodm.settings import Settings, env_name, load_settings
from tests.needs import need

TOP = Path(__file__).parents[2]
HERE = TOP / "deploy" / "container"
BIN = Path(sys.executable).parent


def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    process = subprocess.run([BIN / "hadolint", HERE / "Dockerfile"], check=False, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, "")


def pyproject() -> dict[str, Any]:
    """What the project says of itself."""
    return tomllib.loads((TOP / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


def locked() -> dict[str, tuple[str, list[str]]]:
    """Version and hashes of each locked package."""
    text = (HERE / "requirements.txt").read_text().replace("\\\n", " ")
    requirements = re.findall(r"^([\w.-]+)==(\S+)(.*)$", text, re.MULTILINE)
    return {
        canonicalize_name(name): (version, re.findall(r"--hash=sha256:[0-9a-f]{64}", rest))
        for name, version, rest in requirements
    }


def test_every_dependency_is_locked_by_its_hash_at_an_accepted_version() -> None:
    extras = pyproject()["optional-dependencies"]
    for text in [*pyproject()["dependencies"], *extras["aws"], *extras["kubernetes"]]:
        requirement = Requirement(text)
        version, hashes = locked()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text} is locked at {version}: run `make lock`"
        assert hashes
    assert all(hashes for _, hashes in locked().values())


def test_the_base_is_pinned_and_the_labels_are_those_of_this_version() -> None:
    text = (HERE / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=docker\.io/library/python:3\.\d+\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$", text, re.M)
    assert f'org.opencontainers.image.version="{__version__}"' in text
    assert f'org.opencontainers.image.licenses="{pyproject()["license"]}"' in text


def test_the_image_opens_its_admin_doors_with_a_password_that_is_kept(tmp_path: Path) -> None:
    text = (HERE / "Dockerfile").read_text()
    environ = dict(re.findall(r"(CLUSTERODM_[A-Z_]+)=(\S*)", text)) | {"CLUSTERODM_DATA_DIR": str(tmp_path)}
    settings, password = with_password(load_settings({}, environ=environ))
    assert password
    assert (settings.admin_host, settings.log_file) == ("0.0.0.0", "")
    assert (tmp_path / "admin-password").read_text().strip() == password
    assert 'CMD ["clusterodm", "health"]' in text


def test_the_line_of_the_page_is_the_one_that_everybody_knows() -> None:
    page = (TOP / "docs" / "how-to" / "install.md").read_text()
    image = yaml.safe_load((HERE / "compose.yaml").read_text())["services"]["clusterodm"]["image"]
    assert f"docker run --rm -ti -p 3000:3000 -p 8080:8080 {image}\n" in page
    assert f"--volume clusterodm:/data {image}\n" in " ".join(page.replace("\\\n", "").split("  "))


def test_variables_of_the_image_and_of_compose_are_settings() -> None:
    variables = {env_name(name) for name in Settings.model_fields}
    for name in ("Dockerfile", "compose.yaml"):
        assert set(re.findall(r"CLUSTERODM_[A-Z_]+", (HERE / name).read_text())) <= variables


def test_operators_are_asked_for_a_password_and_reached_from_this_machine_only() -> None:
    services = yaml.safe_load((HERE / "compose.yaml").read_text())["services"]
    assert ":?" in services["clusterodm"]["environment"]["CLUSTERODM_ADMIN_PASS"]
    assert [port for port in services["clusterodm"]["ports"] if not port.startswith("127.0.0.1:")] == ["3000:3000"]
    assert {name for name in services if name != "clusterodm"} == {"node-1", "node-2"}


def test_compose_understands_its_file() -> None:
    need("podman")
    words = [sys.executable, "-m", "podman_compose", "--file", str(HERE / "compose.yaml"), "config"]
    environ = os.environ | {"CLUSTERODM_ADMIN_PASS": "hush-operators"}
    process = subprocess.run(words, check=False, capture_output=True, text=True, env=environ)
    assert process.returncode == 0, process.stderr
    assert yaml.safe_load(process.stdout)["services"]["node-2"]["image"] == "docker.io/webodm/nodeodx:latest"
    without = {key: value for key, value in os.environ.items() if key != "CLUSTERODM_ADMIN_PASS"}
    assert subprocess.run(words, check=False, capture_output=True, env=without).returncode != 0


@pytest.mark.skipif("CONTAINER" not in os.environ, reason="needs some minutes: `make container`")
@pytest.mark.timeout(1200)
def test_it_is_built_and_runs_a_task() -> None:
    process = subprocess.run([TOP / "tools" / "container"], check=False, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "a task went through" in process.stdout
