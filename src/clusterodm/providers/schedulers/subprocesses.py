# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Run a program to its end: output is bounded, and no process outlives the call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from clusterodm.core.errors import Rejected, Unreachable

_MAX_OUTPUT: Final = 16 << 20


class Completed(msgspec.Struct, frozen=True):
    """Exit status and output of a program."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line of standard error, or the exit status."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"exit status {self.status}"


async def run(argv: Sequence[str], *, stdin: str = "", environ: Mapping[str, str] | None = None) -> Completed:
    """Run a program with `environ` added to the environment. Raise Rejected if it cannot be started, and Unreachable if
    its output is too long."""
    begin = asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=None if environ is None else {**os.environ, **environ},
        limit=_MAX_OUTPUT,
        start_new_session=True,
    )
    starting = asyncio.get_running_loop().create_task(begin)
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:  # it may have started children already
        with suppress(OSError):
            await _kill(await starting)
        raise
    except OSError as error:
        raise Rejected(f"{argv[0]} cannot be run: {error.strerror}") from None
    too_long = False
    try:
        async with asyncio.TaskGroup() as group:
            out = group.create_task(_bounded(process.stdout))
            err = group.create_task(_bounded(process.stderr))
            if process.stdin is not None:
                group.create_task(_write(process.stdin, stdin.encode()))
        await process.wait()
    except* Unreachable:  # raised here, Python before 3.11.4 would wrap it in a group
        too_long = True
    finally:
        await _kill(process)
    if too_long:
        raise Unreachable(f"the output of {argv[0]} is too long")
    return Completed(process.returncode or 0, out.result(), err.result())


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process and its children."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()


async def _bounded(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None, "PIPE"  # noqa: S101 - how it was started
    content = bytearray()
    while block := await stream.read(1 << 16):
        content += block
        if len(content) > _MAX_OUTPUT:
            raise Unreachable("too long")
    return content.decode(errors="replace")


async def _write(stream: asyncio.StreamWriter, content: bytes) -> None:
    with suppress(ConnectionError, RuntimeError):  # it exited without reading; uvloop raises RuntimeError
        stream.write(content)
        await stream.drain()
        stream.close()
