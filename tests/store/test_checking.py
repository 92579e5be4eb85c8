# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A damaged database, one of a newer version, or one of another folder: doctor says so, and a start is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from clusterodm.commands.doctor import findings
from clusterodm.core.errors import DataFolderError
from clusterodm.core.tasks import Phase, Task
from clusterodm.files.identity import Identity, write_identity
from clusterodm.server.app import running_cluster
from clusterodm.settings import load_settings
from clusterodm.store import Store
from tests.postgres import Server
from tests.support import FAST


async def filled(folder: Path, url: str = "") -> None:
    """A cluster's folder and database, with a thousand tasks."""
    async with running_cluster(load_settings(FAST | {"data_dir": folder, "database_url": url}, environ={})):
        pass
    store = await Store.open(url or f"sqlite+aiosqlite:///{folder / 'clusterodm.db'}")
    for number in range(1000):
        uuid = f"{number:08d}-5386-40b9-978f-0221804788c9"
        await store.add_task(Task(uuid=uuid, owner="o", phase=Phase.QUEUED, name="n" * 200), "announced")
    await store.close()


async def verdicts_of(folder: Path) -> dict[str, str]:
    """What doctor says of the database."""
    return {each.text: each.verdict async for each in findings(None, folder) if each.what == "database"}


async def refusal(folder: Path, url: str = "") -> str:
    """Why a start is refused."""
    with pytest.raises(DataFolderError) as caught:
        async with running_cluster(load_settings(FAST | {"data_dir": folder, "database_url": url}, environ={})):
            pass
    return str(caught.value)


async def test_flipped_bytes_and_a_truncated_file_are_found_before_anything_is_changed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    await filled(folder)
    path = folder / "clusterodm.db"
    assert set((await verdicts_of(folder)).values()) == {"ok"}
    content = path.read_bytes()
    half = len(content) // 2 // 4096 * 4096
    wrong = [
        content[:half] + bytes(byte ^ 0xFF for byte in content[half : half + 8192]) + content[half + 8192 :],
        content[:half],
        content[: half + 100],
        b"no database at all" * 500,
    ]
    for spoilt in wrong:
        path.write_bytes(spoilt)
        [(why, verdict)] = (await verdicts_of(folder)).items()
        assert verdict == "error"
        assert "is damaged" in why
        assert "clusterodm restore" in why
        assert await refusal(folder) == why
        assert path.read_bytes() == spoilt


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_newer_schema_a_bad_row_and_another_folder_are_named(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = tmp_path / "data", ""
    if kind == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        url = server.new_database()
        monkeypatch.setenv("CLUSTERODM_DATABASE_URL", url)
    await filled(folder, url)
    assert set((await verdicts_of(folder)).values()) == {"ok"}
    await run(folder, url, "UPDATE tasks SET options = '{' WHERE uuid LIKE '0000000%-%'")
    verdicts = await verdicts_of(folder)
    rows = [why for why, verdict in verdicts.items() if verdict == "error"]
    assert len(rows) == 10, rows
    assert any("tasks 00000003-5386-40b9-978f-0221804788c9: column options" in why for why in rows)
    write_identity(folder, Identity("other"))
    assert any("belongs to another database (id other)" in why for why in await verdicts_of(folder))
    await run(folder, url, "UPDATE alembic_version SET version_num = '9999'")
    assert any(
        "newer version (schema 9999" in why and verdict == "error"
        for why, verdict in (await verdicts_of(folder)).items()
    )
    assert "newer version" in await refusal(folder, url)


async def run(folder: Path, url: str, statement: str) -> None:
    """Change a database behind the back of the store."""
    engine = create_async_engine(url or f"sqlite+aiosqlite:///{folder / 'clusterodm.db'}")
    async with engine.begin() as connection:
        await connection.execute(text(statement))
    await engine.dispose()
