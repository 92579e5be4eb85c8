# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A cluster with an autoscaler over pretended clouds."""

from __future__ import annotations

import json
from typing import Any

from clusterodm.core.machines import Machine
from tests.providers.support import Cloud
from tests.support import Api, Rig, eventually


async def start(rig: Rig, *clouds: Cloud, settings: dict[str, Any] | None = None, **keys: Any) -> Api:
    """The cluster with an autoscaler over these clouds; `keys` are added to each entry, `settings` to the flags."""
    costs = {key: keys.pop(key) for key in ("maxHourlyCost", "maxMonthlyCost") if key in keys}
    entries = [{"idleTimeout": 0.2, **cloud.entry, **keys} for cloud in clouds]
    path = rig.folder / "asr.json"
    path.write_text(json.dumps({"providers": entries, **costs}))
    return await rig.start(asr=path, machine_poll_interval=0.05, **(settings or {}))


def machines(rig: Rig) -> list[Machine]:
    return rig.cluster.context.machines.alive()


async def no_machines(rig: Rig, cloud: Cloud) -> None:
    """Nothing is left, here or there."""
    await eventually(lambda: not machines(rig) and not cloud.names())
    if cloud.world is not None:
        await eventually(lambda: cloud.world and not cloud.world.volumes)
    await eventually(lambda: not rig.cluster.context.registry.nodes())
