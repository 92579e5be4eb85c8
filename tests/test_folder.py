# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may look into the data folder."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clusterodm.core.errors import DataFolderError
from clusterodm.devnode import Knobs, running_devnode
from clusterodm.files.folder import locked_folder
from tests.needs import need
from tests.processes import program
from tests.support import images

NOBODY = 65534
#: The program, as a shell that closes nothing to others starts it.
OPEN = ["-c", "import os; os.umask(0); from clusterodm.__main__ import main; main()"]


def readable(folder: Path) -> list[str]:
    """What others could read, write or list."""
    return [
        str(path) for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & 0o077 and not path.is_symlink()
    ]


async def test_nothing_in_the_data_folder_is_for_others_whatever_the_umask(tmp_path: Path) -> None:
    async with running_devnode(Knobs(), port=0) as (_, port):
        settings = {"node": f"127.0.0.1:{port}", "results": "keep"}
        async with program(tmp_path, **settings) as cluster:
            cluster.launcher = OPEN
            api = await cluster.start()
            await api.ends(await api.create(2))
            uuid = await api.init()
            await api.post(f"/task/new/upload/{uuid}", images({"a.jpg": b"photo"}))
            assert readable(tmp_path / "data") == []
            await cluster.end(signal.SIGTERM)
        assert readable(tmp_path / "data") == []
        kinds = {path.name for path in (tmp_path / "data").iterdir()}
        assert {"clusterodm.db", "spool", "results", "logs", "lock"} <= kinds, kinds


async def test_an_old_folder_that_is_open_is_closed(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data, data / "spool", elsewhere):
        folder.mkdir(mode=0o755)
    (data / "nodes.json").write_text("[]")
    (data / "results").symlink_to(elsewhere)
    shared = tmp_path / "asr.json"
    shared.write_text("{}")
    shared.chmod(0o644)  # whatever the umask
    (data / "asr.json").symlink_to(shared)
    with locked_folder(data, shared=False):
        assert readable(data) == []
        assert elsewhere.stat().st_mode & 0o777 == 0o700
        assert shared.stat().st_mode & 0o777 == 0o644


@contextmanager
def foreign_folder(mode: int) -> Iterator[Path]:
    """A folder of another user."""
    need(root=True)
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    folder = top / "data"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(mode)
    try:
        yield folder
    finally:
        shutil.rmtree(top)


def test_root_writes_nothing_into_the_folder_of_another_user() -> None:
    with (
        foreign_folder(0o700) as folder,
        pytest.raises(DataFolderError, match=r"belongs to nobody, .*run this as that user"),
        locked_folder(folder, shared=False),
    ):
        pass
    assert not folder.exists()


@pytest.mark.parametrize(("mode", "works"), [(0o2775, True), (0o777, False)])
def test_a_folder_that_is_lent_is_used_unless_everybody_may_write_there(mode: int, works: bool) -> None:
    """Kubernetes lends a volume of root to the group of a pod."""
    with foreign_folder(mode) as folder:
        os.setegid(NOBODY)
        os.seteuid(12345)
        try:
            if works:
                with locked_folder(folder, shared=True):
                    assert readable(folder) == [str(folder)]
            else:
                with pytest.raises(DataFolderError, match="everybody may write"), locked_folder(folder, shared=True):
                    pass
        finally:
            os.seteuid(0)
            os.setegid(0)
