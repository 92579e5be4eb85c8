# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who calls: what trusted proxies say counts, and limits per caller count by it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from clusterodm.cluster.tasks import uploads
from tests.support import Api, Rig, eventually, form

_ALL = "x-forwarded-for,x-forwarded-proto,x-forwarded-host"


@pytest.mark.parametrize(
    ("trusted", "announced", "headers", "url"),
    [
        ("", "", {"X-Forwarded-Host": "maps.example", "X-Forwarded-Proto": "https"}, "http://127.0.0.1"),
        ("10.0.0.0/8", "forwarded", {"Forwarded": "proto=https;host=maps.example"}, "http://127.0.0.1"),
        ("127.0.0.0/8", "", {"X-Forwarded-Host": "maps.example", "X-Forwarded-Proto": "https"}, "https://127.0.0.1"),
        ("127.0.0.0/8", _ALL, {"X-Forwarded-Host": "maps.example", "X-Forwarded-Proto": "https"}, "https://maps.ex"),
        ("127.0.0.1", "", {"Forwarded": "for=1.2.3.4;proto=https;host=evil.example"}, "http://127.0.0.1"),
        ("127.0.0.1", _ALL, {"Forwarded": "proto=https;host=evil.example", "X-Forwarded-For": "::1"}, "http://127."),
        ("127.0.0.1", "forwarded", {"Forwarded": "for=1.2.3.4;proto=https;host=maps.example"}, "https://maps.example"),
        ("127.0.0.1", "forwarded", {"Forwarded": "proto=https", "X-Forwarded-Host": "evil.example"}, "https://127.0."),
        (
            "127.0.0.1",
            "forwarded",
            {"Forwarded": "for=6.6.6.6;host=evil.example, for=1.2.3.4;host=maps.example"},
            "http://maps.ex",
        ),
        ("127.0.0.1", _ALL, {"X-Forwarded-Host": "evil.example, maps.example"}, "http://maps.example"),
        (
            "127.0.0.0/8",
            _ALL,
            {
                "X-Forwarded-For": "6.6.6.6, 1.2.3.4, 127.0.0.9",
                "X-Forwarded-Host": "evil.example, maps.example, inner.example",
                "X-Forwarded-Proto": "https, http",
            },
            "https://maps.example",
        ),
        ("127.0.0.1", "", {"X-Forwarded-Proto": "javascript"}, "http://127.0.0.1"),
    ],
)
async def test_only_our_own_proxies_say_under_which_address_we_are_reached(
    cluster: Rig, trusted: str, announced: str, headers: dict[str, str], url: str
) -> None:
    api = await cluster.start(trusted_proxies=trusted, **({"proxy_headers": announced} if announced else {}))
    options = {"options": json.dumps([{"name": "split", "value": 1}])}
    uuid = (await api.post("/task/new/init", form(options), headers=headers))["uuid"]
    values = {option["name"]: option["value"] for option in cluster.entry(uuid).task.options}
    assert values["sm-cluster"].startswith(url)


@pytest.mark.parametrize(
    ("announced", "headers", "client"),
    [
        ("", {"X-Forwarded-For": "6.6.6.6, 1.2.3.4, 10.0.0.7"}, "1.2.3.4"),
        ("", {"X-Forwarded-For": "6.6.6.6, 2001:db8::1"}, "2001:db8::1"),
        ("", {"X-Forwarded-For": "1.2.3.4:5678", "Forwarded": "for=6.6.6.6"}, "1.2.3.4"),
        ("", {"X-Forwarded-For": "6.6.6.6, unix:"}, "127.0.0.1"),
        ("", {"X-Forwarded-For": '6.6.6.6, "evil'}, "127.0.0.1"),
        ("", {"Forwarded": "for=6.6.6.6"}, "127.0.0.1"),
        ("x-forwarded-proto", {"X-Forwarded-For": "6.6.6.6"}, "127.0.0.1"),
        ("forwarded", {"Forwarded": "for=6.6.6.6, for=1.2.3.5, for=10.0.0.7"}, "1.2.3.5"),
        ("forwarded", {"Forwarded": 'for=6.6.6.6, for="[2001:db8::1]:443";proto=https'}, "2001:db8::1"),
        ("forwarded", {"Forwarded": 'for=6.6.6.6;x=", for="[2001:db8::1]"'}, "127.0.0.1"),
        ("forwarded", {"Forwarded": 'for=6.6.6.6;x=", for=1.2.3.5'}, "127.0.0.1"),
        ("forwarded", {"Forwarded": "for=unknown", "X-Forwarded-For": "6.6.6.6"}, "127.0.0.1"),
    ],
)
async def test_the_log_names_the_client_behind_our_proxies_and_nobody_else(
    cluster: Rig, tmp_path: Path, announced: str, headers: dict[str, str], client: str
) -> None:
    log = tmp_path / "log.jsonl"
    settings = {"proxy_headers": announced} if announced else {}
    api = await cluster.start(log_file=str(log), access_log="-", trusted_proxies="127.0.0.1,10.0.0.0/8", **settings)
    await api.raw("GET", "/info", headers=headers)
    await eventually(lambda: log.read_text().count('"remote"') == 1)
    assert [json.loads(line).get("remote") for line in log.read_text().splitlines()][-1] == client


async def announce(api: Api, address: str, **more: str) -> Any:
    """Begin an upload as a client at an address behind a trusted proxy."""
    return await api.post("/task/new/init", headers={"X-Forwarded-For": address, **more})


async def test_one_caller_with_too_many_uploads_locks_nobody_else_out(cluster: Rig) -> None:
    api = await cluster.start(flood_limit=1, trusted_proxies="127.0.0.1")
    assert "uuid" in await announce(api, "1.2.3.4")
    assert "Too many uploads" in (await announce(api, "1.2.3.4"))["error"]
    assert "Too many uploads" in (await announce(api, "6.6.6.6, 1.2.3.4:77"))["error"]
    api.query = {"token": "made-up"}  # where none is needed, a token is nobody's name
    assert "Too many uploads" in (await announce(api, "1.2.3.4", Authorization="Bearer made-up"))["error"]
    assert "uuid" in await announce(api, "1.2.3.5")
    assert "uuid" in await announce(api, "2001:db8::1")
    assert "Too many uploads" in (await announce(api, "[2001:db8::ffff]:443"))["error"]
    assert "uuid" in await announce(api, "2001:db8:0:1::1")


async def test_who_is_no_proxy_of_ours_cannot_get_round_the_limit(cluster: Rig) -> None:
    api = await cluster.start(flood_limit=1)
    assert "uuid" in await announce(api, "1.2.3.4")
    assert "Too many uploads" in (await announce(api, "1.2.3.5"))["error"]


async def test_callers_with_tokens_of_their_own_count_by_them_wherever_they_are(cluster: Rig, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[alice]\ntoken = "hush-alice"\n[bob]\ntoken = "hush-bob"\n')
    await cluster.start(flood_limit=1, trusted_proxies="127.0.0.1", cloud_provider="tokens", tokens_file=str(tokens))
    api = cluster.api
    api.query = {"token": "hush-alice"}
    uuid = (await announce(api, "1.2.3.4"))["uuid"]
    assert "Too many uploads" in (await announce(api, "1.2.3.5"))["error"]
    api.query = {"token": "hush-bob"}
    assert "uuid" in await announce(api, "1.2.3.4")
    api.query = {"token": "hush-alice"}
    await api.upload(uuid, a__jpg=b"a")
    await api.commit(uuid)
    assert "uuid" in await announce(api, "1.2.3.5")


async def test_a_burst_of_uploads_gets_no_more_than_the_limit(cluster: Rig) -> None:
    api = await cluster.start(flood_limit=3)
    answers = await asyncio.gather(*(api.post("/task/new/init") for _ in range(30)))
    assert sum("uuid" in answer for answer in answers) == 3


async def test_an_upload_that_is_announced_again_counts_once(cluster: Rig) -> None:
    api = await cluster.start(flood_limit=1)
    uuid = await api.init()
    assert await api.init(uuid=uuid) == uuid


async def test_uploads_whose_clients_went_away_are_forgiven(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    api = await cluster.start(flood_limit=1)
    await api.init()
    assert "Too many uploads" in (await api.post("/task/new/init"))["error"]
    monkeypatch.setattr(uploads, "_FORGIVEN", 0.0)
    assert "uuid" in await api.post("/task/new/init")
