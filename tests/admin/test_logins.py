# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Wrong passwords over real connections (tests/admin/test_guard.py has their times)."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from clusterodm.http import logins
from clusterodm.http.logins import FEW
from tests.admin.support import PASSWORD, Operator, login, start
from tests.support import Rig


async def ask(operator: Operator, headers: dict[str, str] | None = None) -> tuple[int, float, dict[str, str]]:
    """ClusterStatus, seconds and headers of a request on a connection of its own."""
    started_at = time.monotonic()
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{operator.url}/api/v1/status", headers=headers) as response,
    ):
        return response.status, time.monotonic() - started_at, dict(response.headers)


async def test_excess_wrong_passwords_get_a_retry_after(cluster: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
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
