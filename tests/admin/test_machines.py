# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What operators see of machines and do with them: API, shell, commands, page, metrics."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import expect

from clusterodm.core.machines import State
from clusterodm.core.tasks import Phase
from clusterodm.server import schedule
from tests.admin.support import PASSWORD, Operator, start
from tests.admin.test_commands import Run
from tests.admin.test_page import accessible, opened, picture
from tests.admin.test_shell import greeted
from tests.clients.test_browser import needs_chromium
from tests.providers.support import Cloud, running_cloud
from tests.support import Api, Rig, eventually


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_SCALE", 0.02)


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    async with running_cloud("hetzner", seconds=60) as running:
        yield running


async def begin(rig: Rig, cloud: Cloud, *, keys: dict[str, Any] | None = None, **settings: Any) -> tuple[Api, Operator]:
    """A cluster with one machine on which a task runs."""
    path = rig.folder / "asr.json"
    registry = {"username": "me", "password": "hush-registry"}
    path.write_text(json.dumps(cloud.entry | {"idleTimeout": 60, "dockerRegistry": registry} | (keys or {})))
    api, operator = await start(rig, asr=path, machine_poll_interval=0.05, **settings)
    uuid = await api.create(2, name="on a machine")
    await eventually(lambda: rig.entry(uuid).task.phase is Phase.RUNNING)
    return api, operator


async def test_machines_are_listed_planned_kept_and_deleted(cluster: Rig, cloud: Cloud) -> None:
    api, operator = await begin(cluster, cloud)
    machine = (await operator.get("machines"))[0]
    assert (machine["state"], machine["size"], machine["location"]) == ("ready", "small", "fsn1")
    assert len(machine["tasks"]) == 1
    assert machine["node"].startswith("127.1.0.2:")
    assert (await operator.get("status"))["machines"] == 1
    plan = await operator.get("machines/plan", images=50)
    assert (plan["size"], plan["price"]) == ("large", 0.4)
    assert "no free slot" in plan["why"]
    assert "hush" not in json.dumps(plan)
    status, refused = await operator.ask("GET", "/api/v1/machines/plan?images=1000")
    assert (status, refused) == (409, {"error": "none would be created: hetzner has no size large enough"})
    short = machine["id"][-8:]
    assert "is kept" in (await operator.order("POST", f"machines/{short}/keep"))["text"]
    assert (await operator.get("machines"))[0]["kept"] is True
    await operator.order("POST", f"machines/{short}/release")
    assert (await operator.ask("POST", "/api/v1/machines/unknown/delete"))[0] == 404
    uuid = machine["tasks"][0]
    cloud.world.knobs["seconds"] = 0.0  # type: ignore[union-attr]
    assert "1 task is retried elsewhere" in (await operator.order("POST", f"machines/{short}/delete"))["text"]
    await api.ends(uuid)
    gone_machines = await eventually(lambda: operator.get("machines/gone"))
    assert [(each["id"], each["reason"]) for each in gone_machines] == [(machine["id"], "deleted by an operator")]
    costs = await operator.get("machines/costs", by="task")
    assert uuid in [cost["key"] for cost in costs]


async def test_a_machine_keeps_its_history_when_it_is_gone(cluster: Rig, cloud: Cloud) -> None:
    _, operator = await begin(cluster, cloud)
    run, session = Run(cluster), await greeted(cluster)
    machine = cluster.cluster.context.machines.alive()[0]
    detail = await operator.get(f"machines/{machine.id[-8:]}")
    assert detail["machine"]["id"] == machine.id
    assert [line["state"] for line in detail["history"]] == ["ordered", "booting", "ready"]
    await operator.order("POST", f"machines/{machine.id}/delete")
    await eventually(lambda: cluster.cluster.context.machines.get(machine.id) is None)
    history = (await run.json("machine", "show", machine.id))["history"]
    assert [(line["state"], line["text"]) for line in history[2:]] == [
        ("ready", machine.reason),
        ("deleting", "deleted by an operator"),
        ("gone", "deleted by an operator"),
    ]
    assert [line["at"] for line in history] == sorted(line["at"] for line in history)
    assert f"created as {machine.provider_id}" in await run("machine", "show", machine.id[-8:])
    shown = await session.say(f"MACHINE SHOW {machine.id}")
    assert shown[0].startswith(f"{machine.id} [gone]")
    assert f"booting: created as {machine.provider_id}" in shown[2]
    assert (await operator.ask("GET", "/api/v1/machines/unknown"))[0] == 404


async def test_a_machine_that_is_about_to_go_can_be_kept(cluster: Rig, cloud: Cloud) -> None:
    api, operator = await begin(cluster, cloud, keys={"idleTimeout": 0})
    machine = cluster.cluster.context.machines.alive()[0]
    await cluster.cluster.context.machines.advance(machine, State.DRAINING, "for a test")
    await eventually(lambda: cluster.cluster.context.registry.nodes()[0].record.draining)
    await operator.order("POST", f"machines/{machine.id}/keep")
    assert (await operator.get("machines"))[0]["state"] == "ready"
    assert not cluster.cluster.context.registry.nodes()[0].record.draining
    await api.post("/task/cancel", {"uuid": (await operator.get("machines"))[0]["tasks"][0]})
    await eventually(lambda: not cluster.cluster.context.machines.busy(machine))
    assert cloud.names() == [machine.id]
    await operator.order("POST", f"machines/{machine.id}/release")
    await eventually(lambda: not cloud.names())


async def test_what_an_operator_says_is_not_undone_by_a_step_that_began_before(cluster: Rig, cloud: Cloud) -> None:
    _, operator = await begin(cluster, cloud)
    machines = cluster.cluster.context.machines
    before = machines.alive()[0]
    await operator.order("POST", f"machines/{before.id}/keep")
    assert (await machines.change(before, address="127.1.0.2")).kept
    machine = machines.alive()[0]
    await operator.order("POST", f"machines/{before.id}/release")
    assert not (await machines.advance(machine, State.DRAINING, "for a test")).kept
    assert not (await operator.get("machines"))[0]["kept"]
    await machines.change(machine, address="127.1.0.3")
    after = machines.alive()[0]
    assert (after.state, after.address) == (State.DRAINING, "127.1.0.3")
    assert (await cluster.cluster.context.store.machines_alive())[0].address == "127.1.0.3"


async def test_the_shell_knows_machines(cluster: Rig, cloud: Cloud) -> None:
    await begin(cluster, cloud)
    session = await greeted(cluster)
    line = (await session.say("MACHINE LIST"))[0]
    name = line.split()[0]
    assert line.startswith(f"{name} [ready] small in fsn1 (hetzner) 1 tasks cost 0.00: its node came online after")
    assert (await session.say("NODE LIST"))[0].endswith("[A]")
    plan = await session.say("ASR VIEWCMD 50")
    assert plan[0].startswith("no free slot; smallest size for 50 images: large in fsn1")
    assert any("docker run" in text for text in plan)
    assert "hush" not in "".join(plan)
    assert await session.say("ASR VIEWCMD 1000") == ["FAIL: none would be created: hetzner has no size large enough"]
    assert await session.say(f"MACHINE KEEP {name}") == ["OK"]
    assert await session.say(f"MACHINE RELEASE {name[-6:]}") == ["OK"]
    assert await session.say("MACHINE DELETE nothing") == ["FAIL: there is no machine nothing"]
    assert (await session.say(f"MACHINE DELETE {name}"))[0].startswith(f"OK, deleting {name}")


async def test_the_command_line_knows_machines(cluster: Rig, cloud: Cloud) -> None:
    await begin(cluster, cloud, admin_pass=PASSWORD)
    run = Run(cluster)
    machine = (await run.json("machine", "list"))[0]
    assert machine["id"] in await run("machine", "list")
    assert "large in fsn1" in await run("machine", "plan", "50")
    assert "no size large enough" in await run("machine", "plan", "1000", code=1)
    assert "local" in await run("machine", "costs")
    assert "is kept" in await run("machine", "keep", machine["id"][-8:])
    assert "no longer kept" in await run("machine", "release", machine["id"])
    assert "deleting " in await run("machine", "delete", machine["id"])
    await eventually(lambda: not cloud.names() or cloud.names() != [machine["id"]])
    await eventually(lambda: machine["id"] not in [each.id for each in cluster.cluster.context.machines.alive()])
    assert machine["id"] in await run("machine", "gone")


async def test_metrics_count_machines_and_their_cost(cluster: Rig, cloud: Cloud) -> None:
    _, operator = await begin(cluster, cloud)
    async with operator.session.get(f"{operator.url}/metrics") as response:
        text = await response.text()
    assert 'clusterodm_machines{provider="hetzner",state="ready"} 1.0' in text
    assert "clusterodm_machines_hourly_cost 0.1" in text
    assert 'clusterodm_provider_calls_total{call="create",outcome="ok",provider="hetzner"} 1.0' in text
    assert "clusterodm_orphans 0.0" in text


async def test_without_an_autoscaler_the_shell_says_so(cluster: Rig) -> None:
    await start(cluster)
    session = await greeted(cluster)
    assert await session.say("ASR VIEWCMD 10") == ["FAIL: there is no autoscaler (--asr)"]
    assert await session.say("MACHINE LIST") == ["no machines", ""]


async def test_true_zero_is_no_trouble(cluster: Rig, cloud: Cloud) -> None:
    path = cluster.folder / "asr.json"
    path.write_text(json.dumps(cloud.entry))
    _, operator = await start(cluster, asr=path)
    assert (await operator.get("status"))["health"] == "healthy"


@needs_chromium
async def test_the_page_shows_machines_and_deletes_one(cluster: Rig, cloud: Cloud) -> None:
    await begin(cluster, cloud)
    machine = cluster.cluster.context.machines.alive()[0]
    await cluster.cluster.context.autoscaler.keep_costs()
    async with opened(cluster, "machines", viewport={"width": 1200, "height": 700}) as page:
        row = page.get_by_role("row", name=machine.id)
        await expect(row).to_contain_text("small in fsn1")
        await expect(page.get_by_role("cell", name="local")).to_be_visible()
        await accessible(page)
        await picture(page, "machines-light")
        await row.get_by_role("button", name="History").click()
        await expect(row.get_by_role("listitem")).to_have_count(3)
        await expect(row.get_by_role("listitem").last).to_contain_text("ready: its node came online after")
        await accessible(page)
        await row.get_by_role("button", name="Keep").click()
        await expect(row.get_by_role("button", name="Release")).to_be_visible()
        await row.get_by_role("button", name="Delete").click()
        await page.get_by_role("button", name="Delete machine").click()
        await expect(page.get_by_role("row", name=machine.id)).to_contain_text("deleted by an operator")
