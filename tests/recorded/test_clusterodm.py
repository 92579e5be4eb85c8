# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Recorded answers of the real ClusterODM 1.5.8 in front of a real NodeODM: its shell and its `/r/`. What scripts parse
in them has to be in ours: first words, JSON keys and their types, HTTP codes; ours may have more."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

from tests.admin.support import start
from tests.support import Rig

RECORDED: Final = json.loads((Path(__file__).parent / "clusterodm.json").read_bytes())
#: Left out on purpose; and ports, which the original keeps as they were typed.
SECRET: Final = "token"
WORDS: Final = ("OK", "FAIL", "INVALID")


def assert_like(theirs: Any, ours: Any) -> None:
    """Ours has every key of theirs with a value of the same type."""
    if isinstance(theirs, dict):
        assert set(theirs) - {SECRET} <= set(ours)
        assert SECRET not in ours
        for key in set(theirs) - {SECRET, "port"}:
            assert_like(theirs[key], ours[key])
    elif isinstance(theirs, list):
        for one, other in zip(theirs, ours, strict=False):
            assert_like(one, other)
        assert bool(theirs) == bool(ours)
    elif theirs is not None:
        assert type(theirs) is type(ours)


async def test_the_shell_answers_in_the_shapes_of_the_original(cluster: Rig) -> None:
    await cluster.add_node()
    api, _ = await start(cluster)
    await cluster.ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.cluster.shell_port)
    cluster.stack.callback(writer.close)

    async def answer() -> str:
        return (await asyncio.wait_for(reader.readuntil(b"#> "), 20)).decode().removesuffix("#> ")

    assert [line.split(" ")[0] for line in (await answer()).split("\r\n")] == ["Welcome", "HELP", "QUIT", ""]
    uuid = ""
    for case in RECORDED["shell"]:
        command, recorded = case["command"], case["answer"]
        if not uuid and '"TASK"' in recorded:
            uuid = await api.create(name="first")
            await api.ends(uuid)
        typed = command.replace("localhost PORT", f"127.0.0.1 {cluster.ports[0]}").replace(" TASK", f" {uuid}")
        writer.write(f"{command[:4] + typed[4:]}\r\n".encode())
        assert_answer(command, recorded.replace("TASK", uuid or "TASK"), await answer())


def assert_answer(command: str, theirs: str, ours: str) -> None:
    """Ours begins with the same word, is JSON like theirs, or has as many lines."""
    if theirs.strip() in WORDS:
        assert ours.strip().split(":")[0] == theirs.strip(), command
    elif theirs[0] in "{[":
        assert_like(json.loads(theirs), json.loads(ours))
    else:
        assert ours.count("\n") == theirs.count("\n"), command


async def test_the_web_paths_answer_in_the_shapes_of_the_original(cluster: Rig) -> None:
    await cluster.add_node()
    _, operator = await start(cluster)
    await cluster.ready()
    for case in RECORDED["web"]:
        method, path = case["request"].split(" ")
        async with operator.session.request(method, operator.url + path, json=case["body"]) as answer:
            text = await answer.text()
        assert answer.status == case["status"], case
        assert "hush" not in text
        if case["answer"]:
            assert answer.headers["Content-Type"] == case["content_type"]
            theirs, ours = json.loads(case["answer"]), json.loads(text)
            assert_like(theirs, ours)
            assert not isinstance(theirs, bool) or theirs is ours, case
