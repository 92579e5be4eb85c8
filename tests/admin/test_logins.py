# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What wrong passwords cost, and whom they do not hold up."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import pytest
from clusterodm.admin.logins import FEW, Logins

from clusterodm.admin import logins
from tests.admin.support import PASSWORD, Operator, login, start
from tests.support import Rig, eventually


async def ask(operator: Operator, headers: dict[str, str] | None = None) -> tuple[int, float, dict[str, str]]:
    """ClusterStatus, seconds and headers of a request on a connection of its own."""
    begun = time.monotonic()
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{operator.url}/api/v1/status", headers=headers) as response,
    ):
        return response.status, time.monotonic() - begun, dict(response.headers)


async def test_a_request_without_credentials_does_not_wait_for_wrong_passwords(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Logins()
    monkeypatch.setattr("clusterodm.admin.guard.Logins", lambda: counted)
    _, operator = await start(cluster, admin_pass=PASSWORD)
    async with asyncio.TaskGroup() as group:
        wrong = [group.create_task(ask(operator, login("hush-wrong"))) for _ in range(4)]
        await eventually(lambda: counted._waiting == 4)
        status, seconds, headers = await ask(operator)
        assert (status, seconds < logins.DELAY / 2) == (401, True)
        assert headers["WWW-Authenticate"].startswith("Basic ")
        status, seconds, _ = await ask(operator, login(PASSWORD))
        assert (status, seconds < logins.DELAY / 2) == (200, True)
    assert {task.result()[0] for task in wrong} == {401}
    assert max(task.result()[1] for task in wrong) > 4 * logins.DELAY - 0.2


async def test_more_wrong_passwords_than_may_wait_are_told_when_to_come_back(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "DELAY", 0.2)
    _, operator = await start(cluster, admin_pass=PASSWORD)
    answers = await asyncio.gather(*(ask(operator, login("hush-wrong")) for _ in range(30)))
    statuses = [status for status, _, _ in answers]
    assert (statuses.count(401), statuses.count(429)) == (FEW, 30 - FEW)
    for status, seconds, headers in answers:
        if status == 429:
            assert int(headers["Retry-After"]) >= 1
            assert seconds < FEW * logins.DELAY
    assert (await ask(operator, login(PASSWORD)))[0] == 200


async def test_an_address_that_guesses_is_not_heard_so_that_no_answer_tells_the_right_password(cluster: Rig) -> None:
    _, operator = await start(cluster, admin_pass=PASSWORD)
    async with asyncio.TaskGroup() as group:
        guesses = [group.create_task(ask(operator, login("hush-wrong"))) for _ in range(FEW + 5)]
        await eventually(lambda: sum(task.done() for task in guesses) == 5)
        assert (await ask(operator, login(PASSWORD)))[0] == 429
        assert (await ask(operator))[0] == 401
        for task in guesses:
            task.cancel()


async def test_the_shell_says_when_to_come_back_after_too_many_wrong_passwords(
    cluster: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "DELAY", 0.2)
    await start(cluster, admin_pass=PASSWORD)

    async def guess() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", cluster.cluster.shell_port)
        await reader.readuntil(b"$> ")
        writer.write(b"LOGIN hush-wrong\r\n")
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer

    answers = await asyncio.gather(*(guess() for _ in range(FEW + 3)))
    assert answers.count(b"FAIL\r\n") == FEW
    assert sum(answer.startswith(b"FAIL: too many wrong passwords, try again in ") for answer in answers) == 3


async def test_a_session_that_does_not_log_in_is_closed(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterodm.admin.shell._LOGIN_TIME", 0.05)
    await start(cluster, admin_pass=PASSWORD)
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.cluster.shell_port)
    assert (await asyncio.wait_for(reader.read(), 20)).endswith(b"$> ")
    writer.close()


@pytest.mark.parametrize(
    ("first", "second", "one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        (None, None, True),
    ],
)
async def test_addresses_are_limited_each_by_itself_and_those_of_ipv6_by_their_network(
    first: Any, second: Any, one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    guard = Logins(lambda: now[0])
    monkeypatch.setattr(logins, "MANY", 0)  # nobody waits in this test
    for count in range(1, FEW + 1):
        assert guard.refused(first) == 0
        assert await guard.wrong(first) == count * logins.DELAY
    assert guard.refused(first) == 1
    assert guard.refused(second) == int(one)
    now[0] += 1.0
    assert guard.refused(first) == 0


async def test_answers_that_wait_are_bounded_over_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "DELAY", 0.05)
    monkeypatch.setattr(logins, "MANY", 3)
    monkeypatch.setattr(logins, "_ADDRESSES", 4)
    guard = Logins()
    waits = await asyncio.gather(*(guard.wrong(f"192.0.2.{number}") for number in range(8)))
    assert [bool(seconds) for seconds in waits] == [False] * 3 + [True] * 5
    assert len(guard._due) == 4
