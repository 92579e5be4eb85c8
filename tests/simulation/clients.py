# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Clients as actors: each owner has a host, uploads in parallel and retries as PyODM does, polls as WebODM does, and
takes every error that the cluster answers down."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp
import msgspec

from clusterodm.testing.simulation import Event, History, Host, Process
from clusterodm.testing.simulation.nodes import digest_of_files
from tests.simulation.cluster import ClusterActor
from tests.simulation.plan import TaskPlan
from tests.simulation.replicas import ReplicaSet

OVER: Final = (30, 40, 50)
_TIMEOUT: Final = aiohttp.ClientTimeout(total=90.0, sock_connect=10.0)


class Client:
    """One owner's program for one task."""

    def __init__(
        self,
        host: Host,
        cluster: ClusterActor | ReplicaSet,
        history: History,
        plan: TaskPlan,
        *,
        token: str,
        foreign: str,
        webhook: str,
        chance: random.Random,
        over: asyncio.Event,
    ) -> None:
        self.plan = plan
        self.uuid = plan.uuid
        self._host = host
        self._name = f"client {plan.owner}{plan.number}"
        self._cluster = cluster
        self._history = history
        self._token = token
        #: The token of another owner.
        self._foreign = foreign
        self._webhook = webhook
        self._chance = chance
        #: Set once the simulation is over: no more polls.
        self._over = over
        self._session: aiohttp.ClientSession
        self._lines: list[str] = []
        self._shown: tuple[Any, ...] = ()
        #: Grows when an order is given and when it is answered, and those in between: a poll meanwhile tells nothing.
        self._orders = self._ordering = 0
        #: Set once its owner wants no more of it.
        self._removed = False
        #: What has happened to it, and the uuid that it has on its node.
        self._happened: set[str] = set()
        self._on_node = ""
        self._event = asyncio.Event()

    def start(self) -> Process:
        """Start its process."""
        process = Process(self._host, self._name)
        process.run(self._main())
        if self.plan.order_moment:
            self._history.watch(self._watch)
        return process

    def _note(self, kind: str, **details: Any) -> None:
        self._history.add(self._name, kind, self.uuid, **details)

    async def _main(self) -> None:
        await asyncio.sleep(self.plan.at)
        connector = aiohttp.TCPConnector(limit_per_host=self.plan.connections + 2)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as self._session:
            if not await self._announce() or not await self._send_all() or not await self._commit():
                return
            async with asyncio.TaskGroup() as group:
                order = group.create_task(self._order()) if self.plan.order else None
                await self._follow(order)

    # Calls

    async def _call(self, method: str, path: str, make: Callable[[], dict[str, Any]] = dict) -> tuple[int, bytes]:
        """Repeat a request until it is answered, or the simulation is over."""
        pause = 0.5
        while not self._over.is_set():
            try:
                url = f"{self._cluster.url}{path}"
                async with self._session.request(method, url, params={"token": self._token}, **make()) as response:
                    return response.status, await response.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._note("lost call", path=path.rpartition("/")[0] or path, why=type(error).__name__)
            await asyncio.sleep(pause * self._chance.uniform(0.5, 1.5))
            pause = min(8.0, pause * 2)
        return 0, b""

    async def _json(self, method: str, path: str, make: Callable[[], dict[str, Any]] = dict) -> Any:
        """Return the JSON of an answer; take anything else down."""
        while True:
            status, body = await self._call(method, path, make)
            if not status:
                return {}
            answer = _decoded(body)
            if status >= 500 or answer is None:
                self._note("client error", path=path, status=status, text=body[:100])
            elif isinstance(answer, dict) and "try again later" in str(answer.get("error", "")):
                self._note("asked to wait", path=path, text=answer["error"])
            else:
                return answer
            await asyncio.sleep(2.0)

    # The way of a task

    async def _announce(self) -> bool:
        plan = self.plan
        fields = {"name": f"task {plan.number}"} | ({"webhook": self._webhook} if plan.webhook else {})
        headers = {"set-uuid": self.uuid} if plan.set_uuid else {}
        answer = await self._json("POST", "/task/new/init", lambda: {"data": _form(fields), "headers": headers})
        if "uuid" not in answer:
            if answer:
                self._note("client error", path="/task/new/init", text=answer)
            return False
        self.uuid = answer["uuid"]
        self._note(
            "announced",
            files=digest_of_files(plan.files),
            count=len(plan.sizes),
            webhook=plan.webhook,
            together=plan.together,
        )
        return True

    async def _send_all(self) -> bool:
        waiting = list(self.plan.files.items())
        self._chance.shuffle(waiting)
        sent: list[bool] = []

        async def connection() -> None:
            while waiting:
                sent.append(await self._send(*waiting.pop()))
                await asyncio.sleep(self.plan.pause)

        await asyncio.gather(*(connection() for _ in range(self.plan.connections)))
        return all(sent)

    async def _send(self, name: str, content: bytes) -> bool:
        answer = await self._json("POST", f"/task/new/upload/{self.uuid}", lambda: {"data": _form({}, {name: content})})
        if answer.get("success") is not True:
            if answer:
                self._note("client error", path="/task/new/upload", text=answer)
            return False
        self._note("file uploaded", name=name)
        return True

    async def _commit(self) -> bool:
        answer = await self._json("POST", f"/task/new/commit/{self.uuid}")
        if answer.get("uuid") != self.uuid:
            if answer:
                self._note("client error", path="/task/new/commit", text=answer)
            return False
        self._note("accepted")
        await self._pry()
        return True

    async def _pry(self) -> None:
        """Ask for the task as another owner would."""
        url = f"{self._cluster.url}/task/{self.uuid}/info"
        try:
            async with self._session.get(url, params={"token": self._foreign}) as response:
                if "not found" not in str((await response.json()).get("error", "")):
                    self._note("seen by a stranger")
        except (aiohttp.ClientError, TimeoutError, OSError):
            return

    async def _follow(self, order: asyncio.Task[None] | None) -> None:
        """Poll until the task is over and nothing more is wanted of it, as WebODM does."""
        while not self._over.is_set() and not self._removed:
            orders = self._orders
            info = await self._json("GET", f"/task/{self.uuid}/info")
            if self._removed or not info:
                return
            if orders != self._orders or self._ordering:
                await asyncio.sleep(self.plan.poll)
                continue
            if "status" not in info:
                self._note("client error", path="/task/info", text=info)
                return
            code = info["status"]["code"]
            shown = (code, info["status"].get("errorMessage", ""))
            if shown != self._shown:
                self._shown = shown
                self._note("status", code=code, error=shown[1])
            await self._read_console()
            if code in OVER and (order is None or order.done()):
                begins = sum(line.startswith("Development node") for line in self._lines)
                self._note("console", lines=len(self._lines), begins=begins)
                if code == 40 and not self._removed:
                    await self._download()
                return
            await asyncio.sleep(self.plan.poll)

    async def _read_console(self) -> None:
        begin, orders = max(0, len(self._lines) - 2), self._orders
        lines = await self._json_lines(begin)
        if lines is None or self._removed or orders != self._orders or self._ordering:
            return
        if lines[: len(self._lines) - begin] != self._lines[begin:]:
            self._note("console changed", known=len(self._lines), read=len(lines))
        self._lines[begin:] = lines

    async def _json_lines(self, begin: int) -> list[str] | None:
        status, body = await self._call("GET", f"/task/{self.uuid}/output?line={begin}")
        answer = _decoded(body)
        return answer if status == 200 and isinstance(answer, list) else None

    async def _download(self) -> None:
        for _ in range(20):
            status, body = await self._call("GET", f"/task/{self.uuid}/download/all.zip")
            if self._over.is_set() or self._removed:
                return
            if status == 200 and zipfile.is_zipfile(io.BytesIO(body)):
                self._note("downloaded", size=len(body), digest=hashlib.sha256(body).hexdigest()[:16])
                return
            self._note("no results", status=status, text=body[:100])
            await asyncio.sleep(10.0)

    # Orders

    async def _order(self) -> None:
        verbs = self.plan.order.split(" and ")
        if self.plan.order_moment:
            await self._moment()
        await asyncio.sleep(self.plan.order_after)
        if verbs[0] == "restart":
            await self._until_over()
        if self.plan.together:
            await asyncio.gather(*map(self._give, verbs))
            return
        for verb in verbs:
            if verb == "restart" and not self.plan.impatient:
                await self._until_over()
            await self._give(verb)

    async def _give(self, verb: str) -> None:
        """Give an order, until it is answered."""
        if verb == "remove":
            self._removed = True
        self._orders += 1
        self._ordering += 1
        self._note("ordering", verb=verb)
        answer = await self._json("POST", f"/task/{verb}", lambda: {"data": {"uuid": self.uuid}})
        self._orders += 1
        self._ordering -= 1
        if verb == "restart":
            self._lines, self._shown = [], ()
        if answer:
            self._note(self._kind_of(verb, answer), verb=verb, text=answer.get("error", ""))
        if verb == "remove" and answer:
            self._note("removed")

    def _kind_of(self, verb: str, answer: dict[str, Any]) -> str:
        """Return what an answer is: an order may be refused because its node, and so its files, are gone, or because
        of another one that came first."""
        error = str(answer.get("error", ""))
        second = " and " in self.plan.order and any(text in error for text in ("not found", "try again"))
        if answer.get("success") is True:
            return "ordered"
        return "order refused" if "cannot be restarted" in error or second else "client error"

    async def _moment(self) -> None:
        """Wait for an event; a task that is over has no more of its own."""
        if self.plan.order_by_any:
            self._happened.discard(self.plan.order_moment)
        while not self._over.is_set() and not self._happened & {self.plan.order_moment, "phase finished"}:
            with suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await self._event.wait()
            self._event.clear()

    def _watch(self, event: Event) -> None:
        own = event.subject in (self.uuid, self._on_node)
        if own or (self.plan.order_by_any and event.kind == self.plan.order_moment):
            self._on_node = event.details.get("on_node", self._on_node) if own else self._on_node
            self._happened.add(event.kind)
            self._event.set()

    async def _until_over(self) -> None:
        while not self._over.is_set() and not (self._shown and self._shown[0] in OVER):
            await asyncio.sleep(1.0)


def _form(fields: dict[str, str], files: dict[str, bytes] | None = None) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True, quote_fields=False)
    for name, content in (files or {}).items():
        data.add_field("images", io.BytesIO(content), filename=name, content_type="image/jpeg")
    for name, value in fields.items():
        data.add_field(name, value)
    return data


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
