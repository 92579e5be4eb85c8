# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A data folder that is put back from a copy: all of it or nothing, whenever the process dies.

    .restore/new/           what comes, copied whole before anything else happens
    .restore/plan.json      written then: from here on the new state is made, by whoever comes next
    replaced-<time>/        what was there before; a copy itself, from which it can be put back

The database of replicas is replaced in one transaction, which leaves the mark of the plan in it: a plan whose mark is
not in the database is one that was not carried out, and is dropped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from clusterodm.core.errors import DataFolderError
from clusterodm.files.identity import FILE, read_identity, sync_folder, write_identity
from clusterodm.store import value_of

STAGE: Final = ".restore"
REPLACED: Final = "replaced-"
#: Under which the database of replicas has the mark of the last plan.
MARK: Final = "restored"
DATABASE: Final = "clusterodm.db"
#: The files of an SQLite database.
DATABASE_FILES: Final = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm")
DUMP: Final = "database.dump"
#: What stays in the folder whatever is put back.
_STAYS: Final = ("lock", "logs", "trash", STAGE)


class Plan(msgspec.Struct, frozen=True):
    """The remaining steps once all is copied."""

    #: Names in the data folder that make room.
    replaced: list[str]
    #: The folder for them.
    into: str
    #: Whether held files, consoles and results are among them.
    files: bool
    #: What must be in the database of replicas; empty: its database is a file of the folder.
    mark: str = ""


def stays(name: str) -> bool:
    """Return True if an entry of a data folder is no part of what is restored."""
    return name in _STAYS or name.startswith(REPLACED)


def begin(folder: Path) -> Path:
    """Return an empty folder for what comes."""
    shutil.rmtree(folder / STAGE, ignore_errors=True)
    new = folder / STAGE / "new"
    new.mkdir(mode=0o700, parents=True)
    return new


def decide(folder: Path, plan: Plan) -> None:
    """From here on the new state is made. All that was copied is on disk by then."""
    os.sync()
    part = folder / STAGE / "plan.part"
    part.write_bytes(msgspec.json.encode(plan))
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(folder / STAGE / "plan.json")
    sync_folder(folder / STAGE)


async def settle(folder: Path, url: str) -> str:
    """Where a process died while it put a copy back: finish that, or drop it; what was done, empty: nothing. `url`: the
    database of replicas, if there is one. Raises DataFolderError."""
    if not (folder / STAGE).is_dir():
        return ""
    with _alone(folder) as first:
        if not first:
            return ""
        plan = _plan(folder)
        if plan is not None and plan.mark and not url:
            raise DataFolderError(
                f"{folder} is being put back with a PostgreSQL: set CLUSTERODM_DATABASE_URL, as for that restore"
            )
        if plan is None or (plan.mark and await value_of(url, MARK) != plan.mark):
            shutil.rmtree(folder / STAGE, ignore_errors=True)
            return "a restore that was cut off was dropped: all is as it was before it"
        carry_out(folder, plan)
        return f"a restore that was cut off was finished; what was there before is in {folder / plan.into}"


def carry_out(folder: Path, plan: Plan) -> None:
    """Put away what was there and put in what was copied; also what is left to do of that."""
    new, into = folder / STAGE / "new", folder / plan.into
    into.mkdir(mode=0o700, exist_ok=True)
    for name in plan.replaced:
        if (folder / name).exists() and not (into / name).exists():
            (folder / name).rename(into / name)
    if (folder / STAGE / DUMP).exists():
        (folder / STAGE / DUMP).rename(into / DUMP)
    if not plan.files and (before := read_identity(into)) is not None:
        write_identity(into, msgspec.structs.replace(before, files=False))
    for path in sorted(new.iterdir()):
        path.rename(folder / path.name)
    sync_folder(into)
    sync_folder(folder)
    shutil.rmtree(folder / STAGE)


def _plan(folder: Path) -> Plan | None:
    path = folder / STAGE / "plan.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise DataFolderError(f"{path} cannot be read: {error}") from None


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Keep others out; False when they were faster. Several replicas may start on one folder."""
    descriptor = os.open(folder / STAGE, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield (folder / STAGE).exists()
    finally:
        os.close(descriptor)


def copy_tree(source: Path, target: Path) -> None:
    """Copy files with their times. Held files and results never change: where they lie on the same disk, and are this
    user's, they get a second name instead."""
    for folder, inner, names in os.walk(source):
        here = Path(folder).relative_to(source)
        inner[:] = [name for name in inner if here.parts or not stays(name)]
        (target / here).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            if (Path(folder) / name).is_symlink():
                continue
            if here.parts or not (stays(name) or name in (*DATABASE_FILES, DUMP, FILE)):
                _copy(Path(folder) / name, target / here / name, may_link=here.parts[:1] in (("spool",), ("results",)))


def _copy(path: Path, target: Path, *, may_link: bool) -> None:
    if may_link and path.stat().st_uid == os.geteuid():
        with suppress(OSError):
            os.link(path, target)
            return
    shutil.copy2(path, target)
