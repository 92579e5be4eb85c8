# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A plain client of one node: what is sent is what the tests say."""

from __future__ import annotations

import io
import json
import signal
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from tests.node_contract.nodes import Program
from tests.support import eventually

UUID = "5a2e0d3c-1f4b-4c6d-8e7f-90a1b2c3d4e5"


class Client:
    """Requests to a node."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.token = ""
        self.session = aiohttp.ClientSession()

    async def raw(self, method: str, path: str, **how: Any) -> tuple[int, Mapping[str, str], bytes]:
        """TaskStatus, headers and body of an answer."""
        query = {"token": self.token} if self.token else {}
        how["params"] = query | dict(how.get("params", {}))
        async with self.session.request(method, self.program.url + path, **how) as response:
            return response.status, response.headers, await response.read()

    async def close(self) -> None:
        """End its connections."""
        await self.session.close()

    async def restart(self, how: signal.Signals) -> None:
        """End the node and start it again."""
        await self.close()
        self.program.restart(how)
        self.session = aiohttp.ClientSession()

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON of a GET."""
        return json.loads((await self.raw("GET", path, params=query))[2])

    async def post(self, path: str, body: Any = None, **how: Any) -> Any:
        """The JSON of a POST; a dict goes urlencoded."""
        status, _, answer = await self.raw("POST", path, data=body, **how)
        assert status == 200, (status, answer)
        return json.loads(answer)

    async def init(self, fields: Mapping[str, str] | None = None, *, uuid: str = "") -> Any:
        """Announce a task as multipart."""
        headers = {"set-uuid": uuid} if uuid else {}
        return await self.post("/task/new/init", multipart(fields or {"unknown": "field"}), headers=headers)

    async def upload(self, uuid: str, *files: tuple[str, bytes]) -> Any:
        """Upload files in one request."""
        return await self.post(f"/task/new/upload/{uuid}", multipart({}, files))

    async def announced(self, *files: tuple[str, bytes], **fields: str) -> str:
        """A task with these files, not committed."""
        uuid = str((await self.init(fields))["uuid"])
        for file in files or [("a.jpg", b"a")]:
            assert await self.upload(uuid, file) == {"success": True}
        return uuid

    async def commit(self, uuid: str) -> Any:
        """Commit a task."""
        return await self.post(f"/task/new/commit/{uuid}")

    async def created(self, *files: tuple[str, bytes], **fields: str) -> str:
        """A committed task."""
        uuid = await self.announced(*files, **fields)
        assert await self.commit(uuid) == {"uuid": uuid}
        return uuid

    async def completed(self, *files: tuple[str, bytes], **fields: str) -> str:
        """A task that is done."""
        uuid = await self.created(*files, **fields)
        await self.ends(uuid)
        return uuid

    async def info(self, uuid: str, **query: Any) -> Any:
        """What the node says of a task."""
        return await self.get(f"/task/{uuid}/info", **query)

    async def reaches(self, uuid: str, *codes: int) -> Any:
        """The task's info once it has one of these codes."""

        async def there() -> Any:
            info = await self.info(uuid)
            return info if info["status"]["code"] in codes else None

        return await eventually(there)

    async def runs(self, uuid: str) -> None:
        """Wait until the task has a slot: before its files are in place a node shows 20, and has not queued it."""

        async def has_a_slot() -> bool:
            info = await self.info(uuid)
            return bool(info["status"]["code"] == 20 and info["processingTime"] != -1)

        await eventually(has_a_slot)

    async def ends(self, uuid: str, code: int = 40) -> Any:
        """The task's info once it is over, which must be with this code."""
        info = await self.reaches(uuid, 30, 40, 50)
        assert info["status"]["code"] == code, info
        return info

    async def archive(self, uuid: str) -> set[str]:
        """Names of the files in the results."""
        _, _, content = await self.raw("GET", f"/task/{uuid}/download/all.zip")
        return {name for name in zipfile.ZipFile(io.BytesIO(content)).namelist() if not name.endswith("/")}


def multipart(fields: Mapping[str, str], files: Sequence[tuple[str, bytes]] = ()) -> aiohttp.FormData:
    """Fields, then files, as multipart."""
    form = aiohttp.FormData(default_to_multipart=True, quote_fields=False)
    for name, value in fields.items():
        form.add_field(name, value)
    for name, content in files:
        form.add_field("images", content, filename=name, content_type="application/octet-stream")
    return form


def part(disposition: bytes, content: bytes) -> dict[str, Any]:
    """A multipart body with one part, its header byte by byte."""
    body = b"--B\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + content + b"\r\n--B--\r\n"
    return {"body": io.BytesIO(body), "headers": {"Content-Type": "multipart/form-data; boundary=B"}}


def options(**values: Any) -> str:
    """The `options` field, names with underscores for dashes."""
    return json.dumps([{"name": name.replace("_", "-"), "value": value} for name, value in values.items()])
