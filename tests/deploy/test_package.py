# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The package as others get it: built, installed into a clean environment away from the source, and used from there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from clusterodm import __version__
from clusterodm.devnode.photos import make_photos
from tests.processes import free_port

TOP = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(*words: object, **environ: str) -> str:
    """What a program prints; fails with all that it said."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CLUSTERODM_", "PYTHONPATH"))}
    process = subprocess.run(
        [*map(str, words)], check=False, capture_output=True, text=True, env=inherited | environ, cwd="/", timeout=110
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist; the wheel is made from the sdist, so that nothing is missing in that."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, TOP)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which there is the wheel and what it needs, and nothing of ours."""
    folder = tmp_path_factory.mktemp("clean")
    run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, folder / "venv")
    run(BIN / "uv", "pip", "install", "--quiet", "--python", folder / "venv" / "bin" / "python", built[0])
    return folder / "venv" / "bin"


def test_both_have_all_that_belongs_to_them_and_nothing_else(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    tracked = run("git", "-C", TOP, "ls-files", "src").split()
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {name.removeprefix("src/") for name in tracked}
    info = {name.partition("/")[2] for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in name}
    assert "licenses/LICENSE" in info
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert tops == {"src", "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}


def test_what_it_says_of_itself(built: tuple[Path, Path]) -> None:
    archive = zipfile.ZipFile(built[0])
    text = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    assert f"\nVersion: {__version__}\n" in text
    assert "\nLicense-Expression: AGPL-3.0-or-later\n" in text
    run(sys.executable, "-m", "twine", "check", "--strict", *built)


async def test_it_works_where_nothing_else_is(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "clusterodm", "--version").strip() == f"clusterodm {__version__}"
    assert str(TOP) not in run(installed / "python", "-c", "import clusterodm; print(clusterodm.__file__)")
    make_photos(tmp_path / "photos", 2)
    node, port = free_port(), free_port()
    commands = [
        ["devnode", "--port", node, "--seconds", "0.2"],
        ["serve", "--port", port, "--data-dir", tmp_path / "data", "--node", f"127.0.0.1:{node}"],
    ]
    started = [
        subprocess.Popen([str(installed / "clusterodm"), *map(str, words)], cwd="/", stderr=subprocess.DEVNULL)
        for words in (commands[0], [*commands[1], "--admin-cli-port", 0, "--admin-web-port", 0])
    ]
    try:
        url = f"http://127.0.0.1:{port}"
        run(installed / "clusterodm", "submit", tmp_path / "photos", "--url", url, "--output", tmp_path / "results")
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(20)
    assert list((tmp_path / "results").iterdir())


def test_pipx_installs_it(built: tuple[Path, Path], tmp_path: Path) -> None:
    environ = {name: str(tmp_path / name) for name in ("PIPX_HOME", "PIPX_BIN_DIR", "PIPX_MAN_DIR")}
    run(sys.executable, "-m", "pipx", "install", "--quiet", built[0], **environ)
    assert run(tmp_path / "PIPX_BIN_DIR" / "clusterodm", "--version").strip() == f"clusterodm {__version__}"


def test_types_are_shipped(installed: Path, tmp_path: Path) -> None:
    program = tmp_path / "uses.py"
    program.write_text("from clusterodm.core.tasks import Task\nreveal_type(Task.uuid)\n")
    output = run(BIN / "mypy", "--python-executable", installed / "python", "--cache-dir", tmp_path / "cache", program)
    assert "import-untyped" not in output


def test_the_bill_of_materials_names_all_that_is_installed(installed: Path, tmp_path: Path) -> None:
    run(TOP / "tools" / "sbom", installed / "python", tmp_path / "sbom.json", PATH=f"{BIN}:{os.environ['PATH']}")
    bill = json.loads((tmp_path / "sbom.json").read_text())
    components = {part["name"].lower().replace("_", "-"): part for part in bill["components"]}
    listed = json.loads(run(BIN / "uv", "pip", "list", "--format", "json", "--python", installed / "python"))
    assert {each["name"].lower() for each in listed} - {"clusterodm"} <= set(components)
    assert all(part.get("licenses") for part in components.values())
    assert bill["metadata"]["component"]["version"] == __version__


def test_every_source_says_whose_it_is_and_under_which_licence() -> None:
    kinds = {
        ".py",
        ".js",
        ".css",
        ".html",
        ".toml",
        ".yaml",
        ".yml",
        ".sh",
        ".conf",
        ".cfg",
        ".service",
        ".tpl",
        ".mako",
    }
    without = []
    for name in run("git", "-C", TOP, "ls-files").split("\n"):
        path = TOP / name
        is_source = path.suffix in kinds or (path.is_file() and path.read_bytes()[:2] == b"#!")
        if (
            name
            and is_source
            and path.stat().st_size
            and "SPDX-License-Identifier: AGPL-3.0-or-later" not in path.read_text()
        ):
            without.append(name)
    assert without == []


@pytest.mark.parametrize(
    ("page", "pattern"),
    [
        ("deploy/container/compose.yaml", r"image: clusterodm:(\S+)"),
        ("docs/how-to/install.md", r"-t clusterodm:(\S+)"),
        ("deploy/helm/clusterodm/Chart.yaml", r"appVersion: (\S+)"),
    ],
)
def test_the_version_is_the_same_wherever_it_stands(page: str, pattern: str) -> None:
    assert re.findall(pattern, (TOP / page).read_text()) == [__version__]
