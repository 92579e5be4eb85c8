# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Console lines of tasks on disk: one JSON string per line, so that reading them is copying them.

The number of lines in the file is the line number that clients see; it only grows, until an owner restarts the task. A
sparse index of byte offsets makes a tail as cheap as it is short.
"""

from __future__ import annotations

import asyncio
import os
import threading
from array import array
from collections import OrderedDict
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec

#: Lines between two entries of the index.
STRIDE: Final = 128
#: Bytes of the last lines that are kept in memory for each task: pollers ask for these.
_TAIL: Final = 4 << 10
_CHUNK: Final = 1 << 20


class Console:
    """The lines of one task."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks = array("Q", [0])
        self.count = 0
        #: Bytes up to the end of the last complete line, and bytes indexed.
        self._size = 0
        self._indexed = 0
        #: The inode of the file: a task that starts over gets another one.
        self._file = 0
        #: The last complete lines as bytes, with the number of the first of them and that of the one after the last;
        #: replaced as a whole, so that it can be read without the lock. None: not read yet.
        self._tail: tuple[int, int, bytes] | None = None
        #: Readers and the writer work in threads.
        self._lock = threading.Lock()

    def refresh(self) -> int:
        """Index new lines of the file; return how many it has."""
        with self._lock:
            self._refresh()
            return self.count

    def _refresh(self) -> None:
        """Index lines that were added since, maybe by another process. An incomplete line does not count."""
        try:
            status = self._path.stat()
            size, file_id = status.st_size, status.st_ino
        except FileNotFoundError:
            size, file_id = 0, 0
        if size == self._size and file_id == self._file:
            if not size:
                self._tail = (0, 0, b"")
            return
        if size < self._size or file_id != self._file:
            self._marks, self.count, self._size = array("Q", [0]), 0, 0
        self._file, self._indexed = file_id, self._size
        if not size:
            self._tail = (0, 0, b"")
            return
        with self._path.open("rb") as file:
            file.seek(self._size)
            while chunk := file.read(_CHUNK):
                self._index(chunk)
            file.seek(self._marks[-1])
            self._keep_tail((len(self._marks) - 1) * STRIDE, file.read(self._size - self._marks[-1]))

    def _index(self, chunk: bytes) -> None:
        """Index the complete lines in `chunk`, which begins where the last complete line or chunk ended."""
        base, position = self._indexed, 0
        while (newline := chunk.find(b"\n", position)) >= 0:
            position = newline + 1
            self.count += 1
            self._size = base + position
            if self.count % STRIDE == 0:
                self._marks.append(self._size)
        self._indexed = base + len(chunk)

    def _keep_tail(self, first: int, lines: bytes) -> None:
        """Keep the last lines in memory, or as many of them as there is room for."""
        if len(lines) > _TAIL:
            cut = lines.index(b"\n", len(lines) - _TAIL) + 1
            first += lines.count(b"\n", 0, cut)
            lines = lines[cut:]
        self._tail = (first, self.count, lines)

    @property
    def known(self) -> bool:
        """True if the file was read before."""
        return self._tail is not None

    def tail(self, start: int) -> bytes | None:
        """Return the same as `read` if the lines are in memory; else None."""
        if self._tail is None:
            return None
        first, end, lines = self._tail
        start = max(0, end + start) if start < 0 else start
        if start >= end:
            return b"[]"
        return _listed(lines, start - first) if start >= first else None

    def append(self, lines: list[str]) -> None:
        """Append lines, over the incomplete line that a crash or a full disk may have left."""
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
            self._file = os.fstat(file.fileno()).st_ino
        self._indexed = self._size
        self._index(encoded)
        first, _, lines = self._tail or (0, 0, b"")
        self._keep_tail(first, lines + encoded)

    def read(self, start: int) -> bytes:
        """Return the lines from number `start` (negative: the last ones) as one JSON list."""
        with self._lock:
            self._refresh()
            start = max(0, self.count + start) if start < 0 else start
            if start >= self.count:
                return b"[]"
            begin, end = self._marks[start // STRIDE], self._size
        with self._path.open("rb") as file:
            file.seek(begin)
            return _listed(file.read(end - begin), start % STRIDE)


def _listed(lines: bytes, skip: int) -> bytes:
    """Return encoded lines as one JSON list, without the first `skip` of them."""
    return b"[" + lines.split(b"\n", skip)[-1].removesuffix(b"\n").replace(b"\n", b",") + b"]"


def _write_all(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _start_over(path: Path) -> None:
    """Replace a file by an empty one while it still exists, so that the two cannot have the same inode."""
    if path.exists():
        fresh = path.with_suffix(".new")
        fresh.touch()
        fresh.replace(path)


class Consoles:
    """The consoles of all tasks under one folder; index and last lines of the most recently used ones are kept in
    memory. `shared`: other processes add lines, too, so that the files have to be checked on every read."""

    def __init__(self, root: Path, *, shared: bool = False, keep: int = 2000) -> None:
        self._root = root
        self._shared = shared
        self._keep = keep
        self._consoles: OrderedDict[str, Console] = OrderedDict()

    def uuids(self) -> list[str]:
        """Return the uuids of all tasks that have a console here; reads the disk."""
        return [path.stem for path in self._root.glob("*/*.jsonl")]

    def path(self, uuid: str) -> Path:
        """Return the path of a task's lines."""
        return self._root / uuid[:2] / f"{uuid}.jsonl"

    def _console(self, uuid: str) -> Console:
        console = self._consoles.get(uuid)
        if console is None:
            console = self._consoles[uuid] = Console(self.path(uuid))
        self._consoles.move_to_end(uuid)
        while len(self._consoles) > self._keep:
            self._consoles.popitem(last=False)
        return console

    async def append(self, uuid: str, lines: list[str]) -> None:
        """Append lines to a task's console. One caller at a time for one task."""
        if lines:
            await asyncio.to_thread(self._console(uuid).append, lines)

    async def count(self, uuid: str) -> int:
        """Return how many lines a task has."""
        console = self._console(uuid)
        if console.known and not self._shared:
            return console.count
        return await asyncio.to_thread(console.refresh)

    def tail(self, uuid: str, start: int) -> bytes | None:
        """Return the same as `read` if the lines are in memory and surely the newest; else None."""
        return None if self._shared else self._console(uuid).tail(start)

    async def read(self, uuid: str, start: int) -> bytes:
        """Return a task's lines from `start` (negative: the last ones) as one JSON list."""
        if (lines := self.tail(uuid, start)) is not None:
            return lines
        return await asyncio.to_thread(self._console(uuid).read, start)

    async def last_line(self, uuid: str) -> str:
        """Return the last line of a task; empty if it has none."""
        lines = msgspec.json.decode(await self.read(uuid, -1), type=list[str])
        return lines[-1] if lines else ""

    async def reset(self, uuid: str) -> None:
        """Start a task's console over, from line 0: the task was restarted."""
        self._consoles.pop(uuid, None)
        await asyncio.to_thread(_start_over, self.path(uuid))

    def forget(self, uuid: str) -> None:
        """Drop a task's lines from memory."""
        self._consoles.pop(uuid, None)

    async def drop(self, uuid: str) -> None:
        """Delete a task's lines."""
        self.forget(uuid)
        await asyncio.to_thread(self.path(uuid).unlink, missing_ok=True)
