# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The guard of the admin port, in virtual time: whom wrong passwords delay, for how long, and what is remembered."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from clusterodm.admin.guard import Guard
from clusterodm.admin.text import LineReader
from clusterodm.aio import Clock
from clusterodm.core.errors import ServiceDown
from clusterodm.http import logins
from clusterodm.http.logins import DELAY, FEW, MANY, Logins, TooManyGuesses
from clusterodm.settings import load_settings
from clusterodm.testing.simulation.loop import VirtualLoop
from tests.admin.support import PASSWORD, login

HERE, ELSEWHERE = "192.0.2.1", "198.51.100.1"
WRONG = login("hush-wrong")
RIGHT = login(PASSWORD)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(random.Random(1))) as runner:
        runner.run(scenario)


def now() -> float:
    return asyncio.get_running_loop().time()


class Door:
    """A guard, asked as its port is."""

    def __init__(self) -> None:
        self.jumped = 0.0
        clock = Clock(lambda: 1e9 + now() + self.jumped, now)
        self.guard = Guard(load_settings({"admin_pass": PASSWORD}, environ={}), clock)

    async def ask(self, headers: dict[str, str] | None = None, address: str = HERE) -> tuple[int, float, str]:
        """Status (200: admitted), seconds that the answer took, and Retry-After."""
        began = now()
        request = make_mocked_request("GET", "/api/v1/status", headers=headers or {}).clone(remote=address)
        response = await self.guard.refuse(request)
        if response is None:
            return 200, now() - began, ""
        return response.status, now() - began, response.headers.get("Retry-After", "")

    def guess(self, count: int, group: asyncio.TaskGroup, address: str = HERE) -> list[asyncio.Task[Any]]:
        return [group.create_task(self.ask(WRONG, address)) for _ in range(count)]


def answers(tasks: list[asyncio.Task[Any]]) -> list[tuple[int, float, str]]:
    return [task.result() for task in tasks]


def test_wrong_passwords_of_an_address_are_answered_one_after_another_and_delay_nobody_else() -> None:
    async def scenario() -> None:
        door = Door()
        async with asyncio.TaskGroup() as group:
            guesses = door.guess(4, group)
            await asyncio.sleep(0)
            assert await door.ask() == (401, 0.0, "")
            assert await door.ask(RIGHT) == (200, 0.0, "")
            assert await door.ask(RIGHT, ELSEWHERE) == (200, 0.0, "")
            assert await door.ask(WRONG, ELSEWHERE) == (401, DELAY, "")
        assert answers(guesses) == [(401, number * DELAY, "") for number in (1, 2, 3, 4)]

    run(scenario())


def test_an_address_that_keeps_guessing_is_refused_with_the_right_password_too_until_the_time_that_it_is_told() -> None:
    async def scenario() -> None:
        door = Door()
        async with asyncio.TaskGroup() as group:
            guesses = door.guess(FEW + 3, group)
            await asyncio.sleep(0)
            status, seconds, retry_after = await door.ask(RIGHT)
            assert (status, seconds, retry_after) == (429, 0.0, "1")
            assert await door.ask() == (401, 0.0, "")
            await asyncio.sleep(int(retry_after))
            assert await door.ask(RIGHT) == (200, 0.0, "")
        assert [status for status, *_ in answers(guesses)] == [401] * FEW + [429] * 3
        assert [seconds for status, seconds, _ in answers(guesses) if status == 429] == [0.0] * 3

    run(scenario())


def test_delays_run_out_and_the_address_is_forgotten_by_its_next_login() -> None:
    async def scenario() -> None:
        door = Door()
        async with asyncio.TaskGroup() as group:
            door.guess(FEW, group)
        assert await door.ask(WRONG) == (401, DELAY, "")
        assert await door.ask(RIGHT) == (200, 0.0, "")
        assert not door.guard._logins._due

    run(scenario())


@pytest.mark.parametrize("jump", [-86400.0, -1.0, 86400.0])
def test_a_clock_that_is_set_changes_no_delay(jump: float) -> None:
    async def scenario() -> None:
        door = Door()
        async with asyncio.TaskGroup() as group:
            guesses = door.guess(FEW, group)
            await asyncio.sleep(DELAY / 2)
            door.jumped = jump
            assert (await door.ask(RIGHT))[0] == 429
        assert answers(guesses)[-1] == (401, FEW * DELAY, "")
        assert await door.ask(RIGHT) == (200, 0.0, "")

    run(scenario())


def test_a_guess_that_is_given_up_still_counts() -> None:
    async def scenario() -> None:
        door = Door()
        async with asyncio.TaskGroup() as group:
            guesses = door.guess(FEW, group)
            await asyncio.sleep(0)
            for task in guesses:
                task.cancel()
        assert (await door.ask(RIGHT))[0] == 429
        assert door.guard._logins._delayed == 0

    run(scenario())


def test_delayed_answers_are_bounded_over_all_addresses() -> None:
    async def scenario() -> None:
        door = Door()
        async with asyncio.TaskGroup() as group:
            guesses = [each for number in range(MANY + 5) for each in door.guess(1, group, f"192.0.2.{number}")]
        assert answers(guesses) == [(401, DELAY, "")] * MANY + [(429, 0.0, "1")] * 5
        assert await door.ask(WRONG, ELSEWHERE) == (401, DELAY, "")

    run(scenario())


def test_addresses_that_are_remembered_are_bounded_and_the_one_that_guessed_last_stays() -> None:
    async def scenario() -> None:
        counted = Logins(now)

        async def fail() -> bool:
            return False

        async def guess(address: str) -> None:
            with contextlib.suppress(TooManyGuesses):
                await counted.check(address, fail)

        async with asyncio.TaskGroup() as group:
            for number in range(logins._ADDRESSES + 500):
                group.create_task(guess(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
        assert len(counted._due) == logins._ADDRESSES
        assert "10.0.0.0" not in counted._due
        assert next(reversed(counted._due)) == "10.0.41.3"

    run(scenario())


@pytest.mark.parametrize(
    ("first", "second", "one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_addresses_are_limited_each_by_itself_and_those_of_ipv6_by_their_network(
    first: str, second: str, one: bool
) -> None:
    async def scenario() -> None:
        door = Door()
        async with asyncio.TaskGroup() as group:
            door.guess(FEW, group, first)
            await asyncio.sleep(0)
            assert (await door.ask(RIGHT, second))[0] == (429 if one else 200)

    run(scenario())


def test_attempts_that_take_time_count_while_they_are_under_way_and_cost_nothing_if_they_are_right() -> None:
    async def scenario() -> None:
        counted = Logins(now)

        async def slow(result: str | None) -> str | None:
            await asyncio.sleep(5)
            return result

        async def check(result: str | None) -> str | None:
            return await counted.check(HERE, lambda: slow(result))

        async with asyncio.TaskGroup() as group:
            right = [group.create_task(check("token")) for _ in range(FEW)]
            await asyncio.sleep(0)
            with pytest.raises(TooManyGuesses, match="try again in 1 s"):
                await check("token")
            assert await counted.check(ELSEWHERE, lambda: slow("other")) == "other"
        assert [task.result() for task in right] == ["token"] * FEW
        assert not counted._due
        began = now()
        assert await check(None) is None
        assert now() - began == 5  # a check that takes longer than the delay is delay enough

    run(scenario())


def test_an_attempt_that_could_not_be_judged_costs_nothing() -> None:
    async def scenario() -> None:
        counted = Logins(now)

        async def down() -> bool:
            raise ServiceDown("no answer")

        for _ in range(2 * FEW):
            with pytest.raises(ServiceDown):
                await counted.check(HERE, down)
        assert not counted._due

    run(scenario())


def test_a_silent_session_of_the_shell_runs_out_and_one_that_goes_on_does_not() -> None:
    async def scenario() -> None:
        reader = asyncio.StreamReader()
        lines = LineReader(reader)
        for _ in range(5):
            await asyncio.sleep(3000)
            reader.feed_data(b"NODE LIST\r\n")
            assert await lines.next() == "NODE LIST"
        began = now()
        with pytest.raises(TimeoutError):
            await lines.next()
        assert now() - began == pytest.approx(3600)

    run(scenario())
