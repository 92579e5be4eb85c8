# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands for operators, as a shell runs them."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from clusterodm.commands.doctor import findings
from tests.admin.support import PASSWORD, start
from tests.processes import free_port, without_settings
from tests.support import Rig, eventually


class Run:
    """Runs `clusterodm` against one cluster."""

    def __init__(self, rig: Rig) -> None:
        self.environ = without_settings()
        self.environ |= {
            "CLUSTERODM_ADMIN_URL": rig.cluster.admin_url,
            "CLUSTERODM_ADMIN_PASS": PASSWORD,
            "COLUMNS": "200",
        }
        self.folder = rig.folder

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "clusterodm", *arguments, env=self.environ, cwd=self.folder,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output = (await running.communicate())[0].decode()
        assert running.returncode == code, output
        return output

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self(*arguments, "--json"))


async def test_an_operator_looks_after_nodes(cluster: Rig) -> None:
    await cluster.add_node(slots=2)
    name = f"127.0.0.1:{cluster.ports.pop()}"
    await start(cluster, admin_pass=PASSWORD)
    run = Run(cluster)
    assert "no node is configured" in await run("status", code=1)
    assert await run("node", "add", name) == f"{name} added\n"
    await cluster.ready()
    assert "0/2" in await run("node", "list")
    assert [node["name"] for node in await run.json("node", "list")] == [name]
    assert await run("node", "best", "5") == f"{name}\n"
    assert await run("node", "lock", name) == f"{name}: locked\n"
    assert "is locked" in await run("node", "best", "5", code=1)
    assert await run("node", "unlock", "1") == f"{name}: accepts tasks\n"
    assert (await run.json("node", "drain", name))["drained"] is True
    assert "healthy" in await run("status")
    assert await run("node", "remove", name) == f"{name} removed\n"
    assert "there is no node" in await run("node", "lock", name, code=1)
    assert await run("node", "list") == "No nodes.\n"


async def test_an_operator_looks_after_tasks(cluster: Rig, tmp_path: Path) -> None:
    node = await cluster.add_node(seconds=60)
    api, _ = await start(cluster, admin_pass=PASSWORD)
    await cluster.ready()
    first = await api.create(name="first [bold]")
    await eventually(lambda: cluster.entry(first).task.phase == "running")
    second = await api.create(name="second")
    await eventually(lambda: cluster.entry(second).wait)
    run = Run(cluster)
    listed = await run("task", "list")
    assert "first [bold]" in listed
    assert second in listed
    assert [task["uuid"] for task in (await run.json("task", "list", "--state", "queued"))["tasks"]] == [second]
    assert "all acceptable nodes are busy" in await run("queue")
    assert (await run.json("queue"))[0]["position"] == 1
    assert (await run("task", "why", second[:8])).startswith("waiting: all acceptable nodes are busy")
    assert await run("task", "priority", second, "9") == f"{second} has priority 9\n"
    assert "priority set to 9 by an operator" in await run("task", "show", second)
    assert await run("task", "cancel", second) == f"{second} is canceled\n"
    assert "canceled by an operator" in await run("task", "show", second)
    assert "not available" not in await run("task", "logs", first)
    node.knobs.seconds = 0.0
    await run("task", "cancel", first)
    await run("task", "retry", first)
    assert (await run("task", "logs", "-f", first)).splitlines()[-1] == "Compressing all.zip"
    await api.ends(first)
    target = tmp_path / "report.html"
    await run("task", "download", first, "report/report.html", "--output", str(target))
    assert b"<html" in target.read_bytes()
    assert "Invalid asset" in await run("task", "download", first, "nothing.tif", code=1)
    assert await run("task", "remove", first) == f"{first} removed\n"
    assert "not found" in await run("task", "show", first, code=1)


async def test_an_operator_looks_after_uploads(cluster: Rig) -> None:
    api, _ = await start(cluster, admin_pass=PASSWORD)
    run = Run(cluster)
    assert await run("upload", "list") == "No uploads.\n"
    first, second = await api.init(name="first [bold]"), await api.init(name="second")
    await api.upload(first, a__jpg=b"a" * 1500)
    cluster.clock.ahead += 660
    await api.upload(second, b__jpg=b"b")
    [one, two] = (await run("upload", "list")).splitlines()[1:]
    assert one.startswith(first)
    assert all(text in one for text in ("first [bold]", "1,500", "11 min ago, abandoned"))
    assert two.startswith(second)
    assert [each["uuid"] for each in (await run.json("upload", "list", "--limit", "1"))["uploads"]] == [first]
    assert await run("upload", "drop", first[:8]) == f"{first} dropped\n"
    assert "not found" in await run("upload", "drop", first, code=1)
    assert [each["uuid"] for each in (await run.json("upload", "list"))["uploads"]] == [second]


async def test_a_wrong_password_and_a_wrong_address_give_clear_errors(cluster: Rig) -> None:
    await start(cluster, admin_pass=PASSWORD)
    run = Run(cluster)
    run.environ["CLUSTERODM_ADMIN_PASS"] = "hush-wrong"
    output = await run("status", code=1)
    assert "the password of admin is needed" in output
    assert "hush" not in output
    assert "no cluster answers" in await run("status", "--url", f"http://127.0.0.1:{free_port()}", code=1)
    assert "invalid admin address" in await run("status", "--url", "localhost", code=2)


async def test_the_doctor_finds_what_is_wrong(cluster: Rig) -> None:
    await cluster.add_node()
    good, closed = cluster.ports[0], free_port()
    await start(cluster, admin_pass=PASSWORD)
    run = Run(cluster)
    del run.environ["CLUSTERODM_ADMIN_PASS"]  # here it would be a setting of a cluster that has no admin ports
    busy_port = cluster.cluster.ports[0]
    config = cluster.folder / "config.json"
    config.write_text(
        json.dumps(
            {"node": [f"127.0.0.1:{good}"], "port": free_port(), "admin-cli-port": 0, "admin-web-port": free_port()}
        )
    )
    well = await run.json("doctor", "--config", str(config), "--data-dir", "other")
    assert {finding["verdict"] for finding in well} <= {"ok", "warning"}
    assert any(f"127.0.0.1:{good}" in finding["what"] and "API 2.2.4" in finding["text"] for finding in well)
    config.write_text(
        json.dumps({"node": [f"127.0.0.1:{closed}"], "port": busy_port, "admin-cli-port": 0, "admin-web-port": 0})
    )
    ill = await run("doctor", "--config", str(config), "--data-dir", "other", code=1)
    assert "Connection refused" in ill
    assert "Address already in use" in ill
    config.write_text(json.dumps({"prot": 1}))
    assert "did you mean port?" in await run("doctor", "--config", str(config), code=1)
    running = await run.json("doctor", "--data-dir", str(cluster.folder / "data"))
    assert any("used by a running cluster" in finding["text"] for finding in running)


@pytest.mark.parametrize(
    ("node", "address", "verdict", "text"),
    [
        ("127.0.0.1:1", "", "ok", "not set"),
        ("node.invalid:3000", "", "warning", "not set: split-merge jobs are given the address that their client used"),
        ("node.invalid:3000", "http://localhost:3000", "error", "nodes on other hosts cannot reach it"),
        ("127.0.0.1:1", "https://maps.invalid:3443", "error", "HTTPS on port 443 only"),
        ("node.invalid:3000", "http://maps.invalid:3000", "warning", "the cluster is not running"),
    ],
)
async def test_the_doctor_says_whether_split_merge_jobs_can_reach_the_cluster(
    tmp_path: Path, node: str, address: str, verdict: str, text: str
) -> None:
    config = tmp_path / "config.json"
    ports = {name: free_port() for name in ("port", "admin-cli-port", "admin-web-port")}
    config.write_text(json.dumps({"node": [node], "public-address": address, **ports}))
    results = [each async for each in findings(config, tmp_path) if each.what.startswith("--public-address")]
    assert [each.verdict for each in results] == [verdict]
    assert text in results[0].text


async def test_commands_complete_in_a_shell(cluster: Rig) -> None:
    await start(cluster)
    run = Run(cluster)
    run.environ |= {"_CLUSTERODM_COMPLETE": "complete_bash", "COMP_WORDS": "clusterodm node l", "COMP_CWORD": "2"}
    assert set((await run("node")).split()) >= {"list", "lock"}
