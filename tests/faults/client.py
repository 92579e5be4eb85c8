# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The clients of the storm, each with one task: as patient as those in the field."""

from __future__ import annotations

import asyncio
import time
import zipfile
from io import BytesIO
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError, ContentTypeError

from tests.faults.liar import LIES, ActiveLie, Liar
from tests.support import Api, images

if TYPE_CHECKING:
    from tests.faults.storm import Injection, Storm


class Client:
    """A patient client with one task; it goes on after every loss of the connection, and hides nothing."""

    def __init__(self, storm: Storm, injection: Injection) -> None:
        self.storm = storm
        self.injection = injection
        self.chance = injection.chance
        self.uuid = injection.uuid

    @property
    def api(self) -> Api:
        """The calls."""
        return self.storm.program.api

    def problem(self, kind: str, text: str) -> None:
        """Take note of something that should not be."""
        self.injection.problems.append(f"{kind}: {text}")

    async def call(self, work: Any) -> Any:
        """Do something until it is answered; a lost connection is an error only while the program was there."""
        while True:
            await self.storm.up.wait()
            started_at = time.monotonic()
            try:
                return await work()
            except ContentTypeError as error:
                self.problem("error", f"not JSON: {error.status}")
            except (ClientError, OSError) as error:
                await asyncio.sleep(0.3)  # the death may not have been noticed yet
                if not self.storm.just_died(started_at):
                    self.problem("error", f"connection: {type(error).__name__} {error}")
            await asyncio.sleep(0.05)

    async def order_again(self, work: Any) -> Any:
        """Call, and again as long as the answer asks for it."""
        while True:
            answer = await self.call(work)
            if "try again" not in str(answer.get("error", "")):
                return answer
            await asyncio.sleep(0.2)

    # A task's way

    async def announce(self) -> None:
        """Init."""
        answer = await self.order_again(
            lambda: self.api.post(
                "/task/new/init", {"name": "storm", "webhook": self.storm.hook}, headers={"set-uuid": self.uuid}
            )
        )
        if answer != {"uuid": self.uuid}:
            self.problem("error", f"announcement: {answer}")

    async def send(self, name: str) -> None:
        """One file, sent again until it is answered."""
        content = self.injection.files[name]
        path = f"/task/new/upload/{self.uuid}"
        answer = await self.order_again(lambda: self.api.post(path, images({name: content})))
        if answer != {"success": True}:
            self.problem("error", f"upload: {answer}")

    async def send_all(self) -> None:
        """All files, in parallel."""
        await asyncio.gather(*(self.send(name) for name in self.injection.files))

    async def commit(self) -> None:
        """From the answer on the task is accepted."""
        answer = await self.order_again(lambda: self.api.post(f"/task/new/commit/{self.uuid}"))
        self.injection.accepted = answer == {"uuid": self.uuid}
        if not self.injection.accepted:
            self.problem("error", f"commit: {answer}")

    async def follow(self, *, end: int = 40) -> None:
        """Poll to the end, as WebODM does: one error, and the task would be failed for good."""
        self.injection.end = end
        lines: list[str] = []
        path = f"/task/{self.uuid}/output"
        while True:
            info = await self.call(lambda: self.api.get(f"/task/{self.uuid}/info"))
            if "error" in info or "status" not in info:
                if end != 0:
                    self.problem("error", f"info: {info}")
                return
            code = info["status"]["code"]
            line = len(lines)
            new = await self.call(lambda line=line: self.api.get(path, line=line))
            if not isinstance(new, list):
                if end != 0:
                    self.problem("error", f"output: {new}")
                return
            lines += new
            if code in (30, 40, 50):
                break
            await asyncio.sleep(0.05)
        if code != end:
            self.problem("lost", f"ended with {info['status']}, wanted {end}")
        whole = await self.call(lambda: self.api.get(path))
        if end != 0 and whole[: len(lines)] != lines:
            self.problem("error", "console lines changed")
        if code == 40:
            await self._results(info)

    async def _results(self, info: dict[str, Any]) -> None:
        if info["imagesCount"] != len(self.injection.files):
            self.problem("duplicated", f"{info['imagesCount']} images")
        _, _, body = await self.call(lambda: self.api.raw("GET", f"/task/{self.uuid}/download/all.zip"))
        try:
            damaged = zipfile.ZipFile(BytesIO(body)).testzip()
        except zipfile.BadZipFile:
            damaged = body[:200].decode(errors="replace")
        if damaged:
            self.problem("lost", f"results: {damaged}")

    async def order(self, verb: str) -> None:
        """Cancel or remove, as often as it takes."""
        answer = await self.order_again(lambda: self.api.post(f"/task/{verb}", {"uuid": self.uuid}))
        if answer != {"success": True} and "not found" not in str(answer):
            self.problem("error", f"{verb}: {answer}")

    async def whole(self) -> None:
        """The ordinary way."""
        await self.announce()
        await self.send_all()
        await self.commit()
        await self.follow()

    # What goes wrong

    def lie(self, name: str, liars: list[Liar]) -> None:
        """Have nodes lie about this task."""
        active = ActiveLie(LIES[name])
        for liar in liars:
            liar.lies[self.uuid] = active

    async def pause(self, most: float) -> None:
        """Let some of the task's life go by."""
        await asyncio.sleep(self.chance.uniform(0, most))
