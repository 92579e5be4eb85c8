# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Console lines of tasks on disk: one JSON string a line, so that reading them is copying them.

The number of lines in the file is the line number that clients see; it only grows. A sparse index of byte offsets makes
a tail as cheap as it is short.
"""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections import OrderedDict
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec

#: Lines between two entries of the index.
STRIDE: Final = 128
_CHUNK: Final = 1 << 20


class Console:
    """The lines of one task."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks = array("Q", [0])
        self.count = 0
        #: Bytes up to the end of the last whole line, and bytes looked at.
        self._size = 0
        self._seen = 0
        #: Readers and the writer work in threads.
        self._lock = threading.Lock()

    def refresh(self) -> int:
        """Look at the file again; how many lines it has."""
        with self._lock:
            self._refresh()
            return self.count

    def _refresh(self) -> None:
        """Take note of what the file has more than before: it may have been added by another process. A line that is
        half written does not count."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size == self._size:
            return
        if size < self._size:
            self._marks, self.count, self._size = array("Q", [0]), 0, 0
        self._seen = self._size
        if not size:
            return
        with self._path.open("rb") as file:
            file.seek(self._size)
            while chunk := file.read(_CHUNK):
                self._index(chunk)

    def _index(self, chunk: bytes) -> None:
        """Take note of the whole lines in `chunk`, which begins where the last whole line or chunk ended."""
        base, position = self._seen, 0
        while (newline := chunk.find(b"\n", position)) >= 0:
            position = newline + 1
            self.count += 1
            self._size = base + position
            if self.count % STRIDE == 0:
                self._marks.append(self._size)
        self._seen = base + len(chunk)

    def append(self, lines: list[str]) -> None:
        """Add lines at the end, over what a crash or a full disk left of a half-written one."""
        encoded = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        with self._lock:
            self._refresh()
            self._append(encoded)

    def _append(self, encoded: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("r+b" if self._path.exists() else "wb", buffering=0) as file:
            file.seek(self._size)
            try:
                _write_all(file, encoded)
                whole = True
            except OSError:
                whole = False
                raise
            finally:
                file.truncate(file.tell() if whole else self._size)
        self._seen = self._size
        self._index(encoded)

    def read(self, start: int) -> bytes:
        """The lines from number `start` (negative: the last ones) as one JSON list."""
        with self._lock:
            self._refresh()
            start = max(0, self.count + start) if start < 0 else start
            if start >= self.count:
                return b"[]"
            begin, end = self._marks[start // STRIDE], self._size
        with self._path.open("rb") as file:
            file.seek(begin)
            content = file.read(end - begin)
        lines = content.split(b"\n", start % STRIDE)
        return b"[" + lines[-1].removesuffix(b"\n").replace(b"\n", b",") + b"]"


def _write_all(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


class Consoles:
    """The consoles of all tasks under one folder; the index of the latest used ones is kept in memory."""

    def __init__(self, root: Path, *, keep: int = 2000) -> None:
        self._root = root
        self._keep = keep
        self._known: OrderedDict[str, Console] = OrderedDict()

    def _path(self, uuid: str) -> Path:
        return self._root / uuid[:2] / f"{uuid}.jsonl"

    def _console(self, uuid: str) -> Console:
        console = self._known.get(uuid)
        if console is None:
            console = self._known[uuid] = Console(self._path(uuid))
        self._known.move_to_end(uuid)
        while len(self._known) > self._keep:
            self._known.popitem(last=False)
        return console

    async def append(self, uuid: str, lines: list[str]) -> None:
        """Add lines to a task's console. One caller at a time for one task."""
        if lines:
            await asyncio.to_thread(self._console(uuid).append, lines)

    async def count(self, uuid: str) -> int:
        """How many lines a task has."""
        return await asyncio.to_thread(self._console(uuid).refresh)

    async def read(self, uuid: str, start: int) -> bytes:
        """A task's lines from `start` as one JSON list; see `Console.read`."""
        return await asyncio.to_thread(self._console(uuid).read, start)

    async def drop(self, uuid: str) -> None:
        """Delete a task's lines."""
        self._known.pop(uuid, None)
        await asyncio.to_thread(self._path(uuid).unlink, missing_ok=True)
