# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Programs that providers are asked with: what they say, within a bound; none outlives the call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from clusterodm.core.errors import Rejected, Unreachable

_MAX_ANSWER: Final = 16 << 20


class Ended(msgspec.Struct, frozen=True):
    """How a program ended: its exit status, what it wrote to standard output, and to standard error."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Its last line of complaint."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"exit status {self.status}"


async def run(argv: Sequence[str], *, stdin: str = "", environ: Mapping[str, str] | None = None) -> Ended:
    """Run a program with the environment of ours and `environ`. Raises Rejected when there is none of that name, and
    Unreachable when it says more than anybody reads."""
    begin = asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=None if environ is None else {**os.environ, **environ},
        limit=_MAX_ANSWER,
        start_new_session=True,
    )
    starting = asyncio.get_running_loop().create_task(begin)
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:  # it may have started others already, which the end of itself would not end
        with suppress(OSError):
            await _kill(await starting)
        raise
    except OSError as error:
        raise Rejected(f"{argv[0]} cannot be run: {error.strerror}") from None
    flooded = False
    try:
        async with asyncio.TaskGroup() as group:
            out = group.create_task(_bounded(process.stdout))
            err = group.create_task(_bounded(process.stderr))
            if process.stdin is not None:
                group.create_task(_write(process.stdin, stdin.encode()))
        await process.wait()
    except* Unreachable:  # raised in here, before Python 3.11.4, it would come out in a group
        flooded = True
    finally:
        await _kill(process)
    if flooded:
        raise Unreachable(f"{argv[0]} says too much")
    return Ended(process.returncode or 0, out.result(), err.result())


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End it, and all that it started."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()


async def _bounded(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None, "asked for"  # noqa: S101 - by PIPE
    content = bytearray()
    while block := await stream.read(1 << 16):
        content += block
        if len(content) > _MAX_ANSWER:
            raise Unreachable("too long")
    return content.decode(errors="replace")


async def _write(stream: asyncio.StreamWriter, content: bytes) -> None:
    with suppress(ConnectionError, RuntimeError):  # it ended without reading; uvloop says that with a RuntimeError
        stream.write(content)
        await stream.drain()
        stream.close()
