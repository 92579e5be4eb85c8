# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A development node's files, in the layout of a node.

tmp/<uuid>/body.json             the fields of the init request
tmp/<uuid>/<name>                uploaded files, complete or not
data/<uuid>/images/<name>        after the commit
data/<uuid>/gcp/<name>           after the commit: text files, and files to align with
data/<uuid>/all.zip              results
data/tasks.json                  tasks, saved every hour and at an orderly end
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import zipfile
from collections.abc import AsyncIterable, Callable, Iterable
from io import FileIO
from pathlib import Path
from typing import Any, Final

import msgspec

from clusterodm.core.errors import BadArchive, BadRequest
from clusterodm.files.archives import Bounds, open_archive

_ALIGN: Final = re.compile(r"align\.(las|laz|tif)", re.IGNORECASE)
#: Bytes that are gathered before they are written, off the event loop.
_BLOCK: Final = 256 << 10
#: Bounds of a seed.
_SEED_FILES: Final = 10_000
_SEED_SIZE: Final = 8 << 30


class Folders:
    """All files of one node."""

    def __init__(self, root: Path) -> None:
        self._tmp = root / "tmp"
        self._data = root / "data"
        for folder in (self._tmp, self._data):
            folder.mkdir(parents=True, exist_ok=True)

    # Uploads

    def announce(self, uuid: str, fields: dict[str, str]) -> None:
        """Save the fields of an init request; files that were uploaded before stay."""
        folder = self._tmp / uuid
        folder.mkdir(exist_ok=True)
        (folder / "body.json").write_bytes(msgspec.json.encode(fields))

    def announced(self) -> set[str]:
        """Return the uuids that wait for uploads and a commit."""
        return {path.parent.name for path in self._tmp.glob("*/body.json")}

    def is_announced(self, uuid: str) -> bool:
        """Return True if files of a task are accepted."""
        return _is_plain(uuid) and (self._tmp / uuid / "body.json").is_file()

    async def receive(self, uuid: str, name: str, blocks: AsyncIterable[bytes | memoryview]) -> None:
        """Receive a file under its name from the first byte on: an incomplete one stays, as on a node. If the name is
        taken, use another one, whatever the content."""
        gathered, size = list[bytes](), 0
        with self._create(uuid, name) as file:
            try:
                async for block in blocks:
                    size += len(block)
                    if size < _BLOCK:
                        gathered.append(bytes(block))  # a view changes once the next block is asked for
                        continue
                    full, gathered, size = [*gathered, block], [], 0
                    await asyncio.to_thread(_write, file, full)
            finally:
                if size > _BLOCK // 8:
                    await asyncio.to_thread(_write, file, gathered)
                else:
                    _write(file, gathered)

    def _create(self, uuid: str, name: str) -> FileIO:
        folder = self._tmp / uuid
        folder.mkdir(exist_ok=True)
        name = "_body.json" if name == "body.json" else name
        while (folder / name).exists():
            stem, dot, extension = name.rpartition(".")
            name = f"{stem}_.{extension}" if dot else f"{name}_"
        try:
            return (folder / name).open("wb", buffering=0)
        except OSError as error:
            raise BadRequest(f"{error.strerror}, open 'tmp/{uuid}/{name}'") from None

    def uploaded(self, uuid: str) -> list[str]:
        """Return the names of the files that were uploaded for a task."""
        return [name for name in _names(self._tmp / uuid) if name != "body.json"]

    def take_announcement(self, uuid: str) -> dict[str, str]:
        """Return and delete the fields of an init request."""
        path = self._tmp / uuid / "body.json"
        fields: dict[str, str] = msgspec.json.decode(path.read_bytes())
        path.unlink()
        return fields

    def drop_upload(self, uuid: str) -> None:
        """Delete the upload of a task."""
        if _is_plain(uuid):
            shutil.rmtree(self._tmp / uuid, ignore_errors=True)

    # Tasks

    def take_in(self, uuid: str, max_images: int | None) -> int:
        """Move the files of a committed task into place; return the number of its images. Raises BadRequest; then all
        files are deleted."""
        try:
            return self._take_in(uuid, max_images)
        except (BadRequest, OSError):
            self.drop_upload(uuid)
            self.drop(uuid)
            raise

    def _take_in(self, uuid: str, max_images: int | None) -> int:
        project = self._data / uuid
        shutil.rmtree(project, ignore_errors=True)
        gcp, images = project / "gcp", project / "images"
        gcp.mkdir(parents=True)
        (self._tmp / uuid).rename(images)
        if (images / "seed.zip").exists():
            _unpack_seed(images / "seed.zip", project)
        names = _names(images)
        if max_images and len(names) > max_images:
            text = f"{len(names)} images uploaded, but this node can only process up to {max_images}."
            raise BadRequest(text)
        for name in names:
            if name.lower().endswith(".txt") or _ALIGN.fullmatch(name):
                (images / name).rename(gcp / name)
            elif name.lower().endswith(".zip"):
                (images / name).unlink()
        return len(_names(images))

    def held(self, uuid: str) -> dict[str, Path]:
        """Return the files of a task, committed or not, by name."""
        if (self._tmp / uuid).is_dir():
            return {name: self._tmp / uuid / name for name in self.uploaded(uuid)}
        folders = [self._data / uuid / kind for kind in ("gcp", "images")]
        return {name: folder / name for folder in folders for name in _names(folder)}

    def images(self, uuid: str) -> list[Path]:
        """Return the images of a task, sorted by name: all files but control data."""
        folder = self._data / uuid / "images"
        return sorted(folder / name for name in _names(folder))

    def archive(self, uuid: str) -> Path:
        """Return the path of a task's results."""
        return self._data / uuid / "all.zip"

    def drop(self, uuid: str) -> None:
        """Delete all files of a task."""
        shutil.rmtree(self._data / uuid, ignore_errors=True)

    # Restarts

    def keep(self, tasks: list[dict[str, Any]]) -> None:
        """Save the tasks."""
        (self._data / "tasks.json").write_bytes(msgspec.json.encode(tasks))

    def saved_tasks(self) -> list[dict[str, Any]]:
        """Return the saved tasks whose files still exist."""
        path = self._data / "tasks.json"
        tasks: list[dict[str, Any]] = msgspec.json.decode(path.read_bytes()) if path.exists() else []
        return [task for task in tasks if (self._data / task["uuid"] / "images").is_dir()]

    def drop_orphans(self, task_ids: Iterable[str]) -> None:
        """Delete the files of unknown tasks."""
        for path in self._data.iterdir():
            if path.is_dir() and path.name not in task_ids:
                shutil.rmtree(path, ignore_errors=True)

    def drop_stale_uploads(self, minutes: int, age: Callable[[float], float]) -> None:
        """Delete uploads whose folder did not change for `minutes`. `age`: how many seconds ago a time was."""
        for path in self._tmp.iterdir():
            if age(path.stat().st_ctime) > minutes * 60:
                shutil.rmtree(path, ignore_errors=True)


def _write(file: FileIO, blocks: Iterable[bytes | memoryview]) -> None:
    for block in blocks:
        view = memoryview(block)
        while view:
            view = view[file.write(view) :]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _is_plain(uuid: str) -> bool:
    return bool(uuid) and "/" not in uuid and uuid not in (".", "..")


def _unpack_seed(seed: Path, project: Path) -> None:
    archive_path = project / "seed.zip"
    seed.rename(archive_path)
    try:
        with open_archive(archive_path, Bounds(_SEED_FILES, _SEED_SIZE)) as archive:
            archive.extractall(project)
    except (BadArchive, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError):
        raise BadRequest("Could not extract .zip file, unzip exited with code 9") from None
    archive_path.unlink()
