# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is wrapped around any provider: a bound for time, few calls at a time, patience where repeating is harmless."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Final, TypeVar

import structlog

from clusterodm.aio import Clock, chance
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import OutOfCapacity, ProviderError, Rejected, Throttled, Unreachable
from clusterodm.core.scaling import Offering
from clusterodm.observe import Metrics
from clusterodm.providers.base import MachineSpec, Provider, ProviderMachine
from clusterodm.providers.bucket import Bucket
from clusterodm.providers.config import ProviderConfig
from clusterodm.providers.throttling import Pause

T = TypeVar("T")
_log = structlog.get_logger("providers")

_TIMEOUT: Final = 90.0
_AT_A_TIME: Final = 8
#: Tries of calls that change nothing, seconds before the second, which double, and at most. A pause that is no longer
#: than the last number is waited for.
_TRIES: Final = 3
_DELAY: Final = 1.0
_LONGEST: Final = 60.0
_PATIENCE: Final = 10.0
#: Seconds beyond the end of a pause: timers may fire a moment early, and a call within a pause is refused.
_TICK: Final = 0.005
#: What the count of calls is told apart by.
_CALLS: Final = ("check", "create", "get", "list", "delete")
_ERRORS: Final = (ProviderError, OutOfCapacity, Rejected, Throttled, Unreachable)
_OUTCOMES: Final = ("ok", "failed", *(each.__name__.lower() for each in _ERRORS))


class BoundedProvider:
    """A provider that answers in time or raises. While it asks for a pause no call reaches it."""

    def __init__(self, provider: Provider, metrics: Metrics, clock: Clock) -> None:
        self._provider = provider
        self._metrics = metrics
        for call, outcome in product(_CALLS, _OUTCOMES):
            metrics.provider_calls.labels(provider.config.label, call, outcome)
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        #: Held by one call at a time after a pause, until one was answered.
        self._trial = asyncio.Lock()
        self.config: ProviderConfig = provider.config
        #: What it asks for.
        self.pause = Pause(provider.config.label, clock)
        #: The offerings are the same for as long as the program runs.
        self.offerings: list[Offering] = provider.offerings()
        #: Where its nodes put their results; None: results are brought here.
        self.bucket = Bucket(self.config.s3) if self.config.s3 is not None else None

    @property
    def name(self) -> str:
        """How the entry is called."""
        return self.config.label

    @property
    def has_queue(self) -> bool:
        """Whether a machine may wait there for room."""
        return self._provider.has_queue

    @property
    def node_port(self) -> int:
        """Port of nodes on its machines, where they do not say."""
        return self._provider.node_port

    def bootstrap(self, name: str, offering: Offering, *, token: str) -> str:
        """What a machine is to be started with."""
        return self._provider.bootstrap(name, offering, token=token)

    def shown(self, name: str, offering: Offering) -> str:
        """The same for people, without secrets."""
        text = self.bootstrap(name, offering, token="***")  # noqa: S106 - masked
        for secret in self._provider.secrets():
            escaped = json.dumps(secret)[1:-1]
            for form in (json.dumps(escaped)[1:-1], escaped, secret):  # JSON in JSON, JSON, plain
                text = text.replace(form, "***")
        return text

    async def check(self) -> None:
        """Whether it can be used. Raises a ProviderError."""
        await self._call("check", self._provider.check, tries=_TRIES)
        if self.bucket is not None:
            await self.bucket.check()

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Create once: whether to try again is for those who know what was stored."""
        return await self._call("create", lambda: self._provider.create(spec))

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """One machine; None when there is none."""
        return await self._call("get", lambda: self._provider.get(machine_id, location), tries=_TRIES)

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """All machines of this cluster."""
        return await self._call("list", lambda: self._provider.list_machines(cluster), tries=_TRIES)

    async def delete(self, machine: ProviderMachine) -> None:
        """Delete; gone already is fine."""
        await self._call("delete", lambda: self._provider.delete(machine))

    async def close(self) -> None:
        """Let go of connections."""
        await self._provider.close()

    async def _call(self, name: str, work: Callable[[], Awaitable[T]], *, tries: int = 1) -> T:
        for count in range(1, tries):
            try:
                return await self._once(name, work)
            except (Throttled, Unreachable):
                if self.pause.left > _PATIENCE:
                    raise
                wait = Backoff(first=_DELAY, longest=_LONGEST).wait(count, chance())
                await asyncio.sleep(max(wait, self.pause.left + _TICK))
        return await self._once(name, work)

    async def _once(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        async with self._turns:
            if not self.pause.strikes:
                return await self._now(name, work)
            async with self._trial:
                return await self._now(name, work)

    async def _now(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        if self.pause.left:
            raise self._throttled()
        outcome = "failed"
        try:
            async with asyncio.timeout(_TIMEOUT):
                made = await work()
            outcome = "ok"
            self.pause.worked()
        except TimeoutError:
            raise Unreachable("no answer in time") from None
        except Throttled as error:
            outcome = "throttled"
            self._begin_pause(name, error.until, "rate limit")
            raise self._throttled() from None
        except ProviderError as error:
            outcome = _outcome(error)
            if not isinstance(error, Unreachable):
                self.pause.worked()
            elif error.until:
                self._begin_pause(name, error.until, str(error))
            raise
        except Exception as error:  # noqa: BLE001 - an edge: whoever wrote the provider, it takes nothing down
            _log.warning("a provider failed", provider=self.name, call=name, exc_info=True)
            raise Unreachable(f"an answer that says nothing ({type(error).__name__})") from None
        finally:
            self._metrics.provider_calls.labels(self.name, name, outcome).inc()
        return made

    def _begin_pause(self, call: str, until: float, why: str) -> None:
        if not self.pause.left:
            _log.warning("the provider asks for a pause", provider=self.name, call=call, why=why)
        self.pause.begin(until, why)

    def _throttled(self) -> Throttled:
        return Throttled(self.pause.text, until=self.pause.until)


def _outcome(error: ProviderError) -> str:
    """Return the label of an error; one of a provider's own counts as the one that it is made of."""
    return next(kind.__name__.lower() for kind in type(error).__mro__ if kind in _ERRORS)
