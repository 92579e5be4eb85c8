# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tokens of several owners: what is whose, how much of it, and in what order."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clusterodm.admin.operations import tasks
from clusterodm.auth import JobTokens
from clusterodm.auth.tokens import read_tokens
from clusterodm.core.errors import ConfigError
from clusterodm.core.tasks import Phase
from tests.support import Api, Rig, eventually, images

ALICE, BOB = "hush-alice-1", "hush-bob-22"
TOKENS = f"""
[alice]
token = "{ALICE}"
[bob]
token_sha256 = "{hashlib.sha256(BOB.encode()).hexdigest()}"
limits.maxImages = 2
limits.maxConcurrentTasks = 1
limits.options.dsm = {{remove = true}}
limits.options.pc-quality = {{assure = true, value = "low"}}
limits.options.min-num-features = {{between = {{max = 5000}}}}
priority = 3
share = 2.0
"""


async def two(rig: Rig, text: str = TOKENS, **settings: Any) -> tuple[Api, Api]:
    """Clients of two owners."""
    file = rig.folder / "tokens.toml"
    file.write_text(text)
    alice = await rig.start(cloud_provider="tokens", tokens_file=file, client_token=ALICE, **settings)
    bob = Api(alice.url, BOB)
    rig.stack.push_async_callback(bob.session.close)
    return alice, bob


async def test_only_known_tokens_come_in_and_everybody_learns_how_to_get_one(cluster: Rig) -> None:
    alice, bob = await two(cluster)
    nobody = Api(alice.url, "hush-nobody")
    cluster.stack.push_async_callback(nobody.session.close)
    assert (await nobody.raw("GET", "/info"))[::2] == (401, b"")
    assert "version" in await alice.get("/info")
    assert "version" in await bob.get("/info")
    assert "needs a token" in (await nobody.get("/auth/info"))["message"]
    assert await nobody.post("/auth/login", {"username": "a", "password": "b"}) == {"error": "Not available"}


Question = Callable[[Api, str], Awaitable[Any]]
QUESTIONS: dict[str, Question] = {
    "info": lambda api, uuid: api.get(f"/task/{uuid}/info"),
    "output": lambda api, uuid: api.get(f"/task/{uuid}/output"),
    "download": lambda api, uuid: api.get(f"/task/{uuid}/download/all.zip"),
    "asset": lambda api, uuid: api.get(f"/task/{uuid}/download/report.html"),
    "cancel": lambda api, uuid: api.post("/task/cancel", {"uuid": uuid}),
    "remove": lambda api, uuid: api.post("/task/remove", {"uuid": uuid}),
    "restart": lambda api, uuid: api.post("/task/restart", {"uuid": uuid}),
    "upload": lambda api, uuid: api.post(f"/task/new/upload/{uuid}", images({"a.jpg": b"a"})),
    "commit": lambda api, uuid: api.post(f"/task/new/commit/{uuid}"),
}


@pytest.mark.parametrize("name", QUESTIONS)
async def test_others_get_exactly_what_an_unknown_task_gets(cluster: Rig, name: str) -> None:
    alice, bob = await two(cluster)
    unknown = "00000000-0000-4000-8000-000000000000"
    receiving, committed = await alice.init(), await alice.create(1)
    for uuid in (receiving, committed):
        answer = json.dumps(await QUESTIONS[name](bob, uuid))
        assert answer.replace(uuid, unknown) == json.dumps(await QUESTIONS[name](bob, unknown))
    assert await bob.get("/task/list") == []
    assert await alice.get("/task/list") == [{"uuid": committed}]
    assert cluster.entry(committed).task.phase is Phase.QUEUED
    assert (await bob.post("/task/new/init", headers={"set-uuid": receiving}))["error"].startswith("Invalid set-uuid")


async def test_images_are_counted_while_uploading_and_a_file_that_comes_twice_is_one(cluster: Rig) -> None:
    _, bob = await two(cluster)
    uuid = await bob.init()
    for name in ("a.jpg", "b.jpg", "a.jpg", "gcp_list.txt"):
        assert await bob.post(f"/task/new/upload/{uuid}", images({name: name.encode()})) == {"success": True}
    refused = await bob.post(f"/task/new/upload/{uuid}", images({"c.jpg": b"c"}))
    assert refused == {"error": "Too many images: this token allows at most 2 for one task", "noRetry": True}
    assert await bob.commit(uuid) == refused
    whole = await bob.post("/task/new", images({f"{number}.jpg": b"%d" % number for number in range(3)}))
    assert whole["noRetry"] is True


async def test_options_are_shown_and_taken_within_the_limits(cluster: Rig) -> None:
    alice, bob = await two(cluster)
    hers, his = await alice.get("/options"), await bob.get("/options")
    names = {option["name"] for option in hers} - {option["name"] for option in his}
    assert names == {"dsm", "max-concurrency"}
    assert all(set(option) == {"name", "type", "value", "domain", "help"} for option in his)
    options = json.dumps([{"name": "dsm", "value": True}, {"name": "min-num-features", "value": 9000}])
    uuid = await bob.create(1, options=options)
    assert cluster.entry(uuid).task.options == [
        {"name": "min-num-features", "value": 5000},
        {"name": "pc-quality", "value": "low"},
    ]
    await bob.post("/task/cancel", {"uuid": uuid})
    assert await bob.post("/task/restart", {"uuid": uuid, "options": options}) == {"success": True}
    assert {option["name"] for option in cluster.entry(uuid).task.options} == {"min-num-features", "pc-quality"}


async def test_a_task_over_the_limit_waits_instead_of_failing(cluster: Rig) -> None:
    node = await cluster.add_node(slots=5, seconds=60)
    alice, bob = await two(cluster)
    await cluster.ready()
    first, second = await bob.create(1), await bob.create(1)
    await eventually(lambda: node.tasks.get(first) and node.tasks[first].begun_at)
    await eventually(lambda: "as many as the token allows" in cluster.entry(second).wait)
    await cluster.add_node(slots=9, seconds=0)
    await cluster.ready()
    await alice.ends(await alice.create(1))
    assert await bob.code(second) == 10
    await bob.post("/task/cancel", {"uuid": first})
    await bob.ends(second)


async def test_a_token_that_allows_no_tasks_gets_that_error(cluster: Rig) -> None:
    _, bob = await two(cluster, TOKENS.replace("maxConcurrentTasks = 1", "maxConcurrentTasks = 0"))
    assert await bob.post("/task/new/init") == {"error": "This token allows no tasks", "noRetry": True}
    assert "no tasks" in (await bob.post("/task/new", images({"a.jpg": b"a"})))["error"]


async def test_the_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing(cluster: Rig) -> None:
    alice, bob = await two(cluster)
    file = cluster.folder / "tokens.toml"
    file.write_text("[alice\n")

    async def status(api: Api) -> int:
        return (await api.raw("GET", "/info"))[0]

    assert await status(bob) == 200
    file.write_text(f'[alice]\ntoken = "{ALICE}"\n')
    await eventually(lambda: _is(status(bob), 401))
    assert await status(alice) == 200


async def _is(work: Awaitable[int], expected: int) -> bool:
    return await work == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[a]\n", "needs either"),
        ('[a]\ntoken = "hush-long-enough"\ntoken_sha256 = "' + "0" * 64 + '"', "needs either"),
        ('[a]\ntoken = "short"', "length"),
        ('[a]\ntokn = "hush-long-enough"', "tokn"),
        ('[a]\ntoken = "hush-long-enough"\n[b]\ntoken = "hush-long-enough"', "has the same token as"),
        ('["a#b"]\ntoken = "hush-long-enough"', "may not contain #"),
        ('[a]\ntoken = "hush-long-enough"\nshare = 0', "share"),
        ("a = [", "not valid TOML"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason_and_no_token(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_tokens(text.encode())
    assert why in str(refused.value)
    assert "hush" not in str(refused.value)


async def test_a_provider_that_there_is_not_is_refused_at_the_start(cluster: Rig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean tokens"):
        await cluster.start(cloud_provider="token")
    with pytest.raises(ConfigError, match="needs --tokens-file"):
        await cluster.start(cloud_provider="tokens")
    with pytest.raises(ConfigError, match="cannot be read"):
        await cluster.start(cloud_provider="tokens", tokens_file=tmp_path / "none.toml")


async def test_a_split_merge_job_gets_a_token_that_does_only_what_it_needs_and_dies_with_it(cluster: Rig) -> None:
    node = await cluster.add_node(slots=3, seconds=60)
    alice, bob = await two(cluster)
    await cluster.ready()
    uuid = await alice.create(1, options='[{"name":"split","value":100}]')
    other = await alice.create(1)
    await eventually(lambda: node.tasks.get(uuid) and node.tasks[uuid].code == 20)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    [address] = [option["value"] for option in node.tasks[uuid].options if option["name"] == "sm-cluster"]
    base, _, token = str(address).partition("/?token=")
    assert base == alice.url
    assert ALICE not in str(node.tasks[uuid].options)
    job = Api(base, token)
    cluster.stack.push_async_callback(job.session.close)
    part = await job.create(1, outputs='["x"]', skipPostProcessing="true")
    assert (await job.get(f"/task/{part}/info"))["uuid"] == part
    assert cluster.entry(part).task.owner == f"alice#{uuid}"
    assert await job.get("/task/list") == [{"uuid": part}]
    for foreign in (uuid, other):
        assert "not found" in (await job.get(f"/task/{foreign}/info"))["error"]
    assert "not found" in (await bob.get(f"/task/{part}/info"))["error"]
    assert (await _status(base, token[:-1] + ("1" if token.endswith("0") else "0"), cluster)) == 401
    await alice.post("/task/cancel", {"uuid": uuid})
    assert (await job.raw("GET", "/info"))[0] == 401


async def _status(base: str, token: str, rig: Rig) -> int:
    api = Api(base, token)
    rig.stack.push_async_callback(api.session.close)
    return (await api.raw("GET", "/info"))[0]


def test_job_tokens_are_good_for_one_task_and_one_key() -> None:
    jobs = JobTokens(JobTokens.new_key())
    token = jobs.token("a-task", 2)
    assert jobs.job(token) == ("a-task", 2)
    assert JobTokens(JobTokens.new_key()).job(token) is None
    for wrong in (
        "",
        "job.",
        "job.a-task",
        token.replace("a-task", "b-task"),
        token + "x",
        token.upper(),
        "a-task.x",
        token.replace("a-task.2", "a-task.1"),
        token.replace(".2", ""),
        "job.a.\u00e9",
    ):
        assert jobs.job(wrong) is None


def test_a_job_token_of_an_earlier_version_is_good_for_whichever_attempt_runs() -> None:
    key = JobTokens.new_key()
    jobs = JobTokens(key)
    signature = hmac.new(bytes.fromhex(key), b"a-task", hashlib.sha256).hexdigest()[:40]
    assert jobs.job(f"job.a-task.{signature}") == ("a-task", 0)


PLAIN = f"""
[alice]
token = "{ALICE}"
[bob]
token = "{BOB}"
"""


async def test_with_one_slot_an_owner_with_many_tasks_and_one_with_few_take_turns(cluster: Rig) -> None:
    alice, bob = await two(cluster, PLAIN)
    hers, his = [await alice.create(1) for _ in range(4)], [await bob.create(1) for _ in range(2)]
    await cluster.add_node(seconds=0.1)
    for api, uuids in ((alice, hers), (bob, his)):
        for uuid in uuids:
            await api.ends(uuid)
    attempts = [cluster.entry(uuid).attempt for uuid in (*hers, *his)]
    order = sorted((attempt.started_at, attempt.task) for attempt in attempts if attempt is not None)
    owners = "".join("a" if uuid in hers else "b" for _, uuid in order)
    assert owners[:2] == "ab"
    assert owners[2:4] in ("ab", "ba")
    assert owners[4:] == "aa"


async def test_what_was_used_counts_after_a_restart_and_is_what_a_waiting_task_says(cluster: Rig) -> None:
    await cluster.add_node(seconds=0.1)
    alice, _ = await two(cluster, PLAIN)
    await alice.ends(await alice.create(1))
    await cluster.stop()
    alice, bob = await two(cluster, PLAIN)
    context = cluster.cluster.context
    assert context.fair.usage().ended["alice"] >= 0.1
    await context.registry.change(context.registry.nodes()[0], locked=True)
    hers, his = await alice.create(1), await bob.create(1)
    assert [each.uuid for each in await tasks.queue(context)] == [his, hers]
    why = (await tasks.why(context, cluster.entry(hers))).why
    assert "its owner used less than a node-minute lately and has nothing running or ahead of it" in why


async def test_time_on_a_node_is_charged_once_whatever_becomes_of_the_task(cluster: Rig) -> None:
    await cluster.add_node(seconds=60)
    alice, _ = await two(cluster, PLAIN)
    context = cluster.cluster.context
    uuid = await alice.create(1)
    await eventually(lambda: cluster.entry(uuid).task.phase is Phase.RUNNING)
    await alice.post("/task/cancel", {"uuid": uuid})
    (account,) = await context.store.accounts()
    attempt = cluster.entry(uuid).attempt
    assert attempt is not None
    assert (account.owner, account.seconds) == ("alice", attempt.ended_at - attempt.started_at)
    await alice.post("/task/remove", {"uuid": uuid})
    assert await context.store.accounts() == [account]
    assert context.fair.usage().ended["alice"] <= account.seconds
    assert not context.fair.usage().began
