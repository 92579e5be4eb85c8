# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Refused files of an upload: a client that overlooks a refusal must not get a task without the file.

    spool/<uuid>/refused/<name>  the reason; obsolete once a file of that name is held

The web page of a node takes every answer with status 200 for a success, and commits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from clusterodm.core.errors import BadRequest, ClusterError
from clusterodm.core.names import printable, safe_name
from clusterodm.files.spool import Spool
from clusterodm.http import answers

_LONGEST: Final = 1000


class _Refusal(msgspec.Struct, frozen=True):
    text: str = "a file of this upload was refused"
    no_retry: bool = True


class Refusals:
    """Store refusals beside the files, for every replica and across restarts."""

    def __init__(self, spool: Spool, max_files: int) -> None:
        self._spool = spool
        self._max_files = max_files

    async def add(self, uuid: str, name: str, error: ClusterError) -> None:
        """Store why a file was refused. On a full disk that may fail: then only the response tells the client."""
        refusal = _Refusal(answers.text(error)[:_LONGEST], isinstance(error, BadRequest) and error.no_retry)
        room = self._spool.room
        room.begin(uuid)
        try:
            with suppress(OSError):
                room.add(uuid, await asyncio.to_thread(self._write, uuid, safe_name(name), refusal))
        finally:
            room.end(uuid)

    async def check(self, uuid: str, held: Collection[str]) -> None:
        """Raise BadRequest if a refused file is not among those held."""
        if first := await asyncio.to_thread(self._first, uuid, frozenset(held)):
            name, refusal = first
            text = refusal.text if refusal.no_retry else f"{printable(name)} was not taken: {refusal.text}"
            raise BadRequest(text, no_retry=refusal.no_retry)

    def _write(self, uuid: str, name: str, refusal: _Refusal) -> int:
        """Return by how many bytes the folder grew; no more refusals are stored than a task may have files."""
        folder = self._spool.refused(uuid)
        folder.mkdir(parents=True, exist_ok=True)
        path, content = folder / name, msgspec.json.encode(refusal)
        before = path.stat().st_size if path.exists() else 0
        if not before and len(os.listdir(folder)) >= self._max_files:
            return 0
        path.write_bytes(content)
        return len(content) - before

    def _first(self, uuid: str, held: frozenset[str]) -> tuple[str, _Refusal] | None:
        folder = self._spool.refused(uuid)
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        return next(((name, _read(folder / name)) for name in names if name not in held), None)


def _read(path: Path) -> _Refusal:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Refusal)
    except (OSError, msgspec.DecodeError):  # the process died while it was written
        return _Refusal()
