# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A client that behaves like ODM's split-merge: unforgiving, and slow to learn.

It reads a submodel's info right after the commit: QUEUED makes it delete and upload again later and freezes its
parallelism at what runs then; FAILED or CANCELED aborts the whole job.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from tests.support import Api, Rig, eventually, images

RUNNING, FAILED, COMPLETED, CANCELED = 20, 30, 40, 50


class JobAbortedError(Exception):
    """What ODM does when a submodel fails."""


@dataclass
class SplitMerge:
    """One job with its submodels."""

    api: Api
    submodels: int
    frozen_at: int | None = None
    uploads: int = 0
    running: set[str] = field(default_factory=set)

    async def run(self) -> list[str]:
        """All submodels to their end; their uuids."""
        return await asyncio.gather(*(self._submodel(number) for number in range(self.submodels)))

    async def _submodel(self, number: int) -> str:
        while True:
            if self.frozen_at is not None:
                await eventually(lambda: len(self.running) < max(1, self.frozen_at or 1), seconds=60)
            uuid = await self._upload(number)
            self.running.add(uuid)
            code = await self._code(uuid)
            if code == 10:
                self.frozen_at = len(self.running) - 1
                self.running.discard(uuid)
                await self.api.post("/task/remove", {"uuid": uuid})
                continue
            await self._follow(uuid)
            self.running.discard(uuid)
            return uuid

    async def _upload(self, number: int) -> str:
        self.uploads += 1
        fields = {"name": f"submodel_{number}", "outputs": json.dumps(["odm_orthophoto/odm_orthophoto.tif"])}
        uuid = await self.api.init(skipPostProcessing="true", **fields)
        files = {"a.jpg": b"a", "gcp_list.txt": b"EPSG:4326", "seed.zip": b"PK\5\6" + b"\0" * 18}
        await self.api.post(f"/task/new/upload/{uuid}", images(files))
        await self.api.commit(uuid)
        return uuid

    async def _code(self, uuid: str) -> int:
        info = await self.api.get(f"/task/{uuid}/info")
        code = int(info["status"]["code"])
        if code in (FAILED, CANCELED):
            raise JobAbortedError(info)
        return code

    async def _follow(self, uuid: str) -> None:
        async def over() -> bool:
            code = await self._code(uuid)
            assert code in (RUNNING, COMPLETED), "a change from RUNNING to QUEUED makes ODM upload again"
            return code == COMPLETED

        await eventually(over, seconds=60)


async def test_eight_submodels_finish_on_three_nodes_of_which_one_dies_and_one_joins_late(cluster: Rig) -> None:
    await cluster.add_node(seconds=0.6)
    await cluster.add_node(seconds=0.6)
    api = await cluster.start(node_lost_after=0.5)
    await cluster.ready()
    job = SplitMerge(api, submodels=8)
    working = asyncio.gather(job.run())
    await eventually(lambda: all(node.commits for node in cluster.nodes))
    await cluster.stop_node(0)
    await cluster.add_node(seconds=0.6)
    (uuids,) = await working
    assert len(set(uuids)) == job.uploads == 8
    assert job.frozen_at is None
    assert all(node.commits for node in cluster.nodes)


async def test_submodels_and_other_tasks_do_not_starve_each_other(cluster: Rig) -> None:
    await cluster.add_node(seconds=0.2)
    api = await cluster.start()
    await cluster.ready()
    job = SplitMerge(api, submodels=4)
    working = asyncio.gather(job.run())
    await eventually(lambda: job.uploads == 4)
    ordinary = [await api.create(1) for _ in range(4)]
    for uuid in ordinary:
        await api.ends(uuid)
    await working
    assert job.uploads == 4
