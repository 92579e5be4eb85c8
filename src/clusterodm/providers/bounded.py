# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A wrapper around any provider: timeouts, a concurrency limit, retries of idempotent calls, pauses for rate limits."""

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
_CONCURRENCY: Final = 8
#: Tries of calls that change nothing, and the delays between them. A pause of up to _PATIENCE seconds is waited for.
_TRIES: Final = 3
_DELAY: Final = 1.0
_LONGEST: Final = 60.0
_PATIENCE: Final = 10.0
#: Seconds added to the end of a pause: timers may fire early, and a call within a pause is refused.
_TICK: Final = 0.005
#: Labels of the metric.
_CALLS: Final = ("check", "create", "get", "list", "delete")
_ERRORS: Final = (ProviderError, OutOfCapacity, Rejected, Throttled, Unreachable)
_OUTCOMES: Final = ("ok", "failed", *(each.__name__.lower() for each in _ERRORS))


class BoundedProvider:
    """A provider that returns in time or raises. During a pause no call reaches it."""

    def __init__(self, provider: Provider, metrics: Metrics, clock: Clock) -> None:
        self._provider = provider
        self._metrics = metrics
        for call, outcome in product(_CALLS, _OUTCOMES):
            metrics.provider_calls.labels(provider.config.label, call, outcome)
        self._turns = asyncio.Semaphore(_CONCURRENCY)
        #: Held by one call at a time after a pause, until one has succeeded.
        self._trial = asyncio.Lock()
        self.config: ProviderConfig = provider.config
        #: The pause that it has asked for.
        self.pause = Pause(provider.config.label, clock)
        #: Constant while the program runs.
        self.offerings: list[Offering] = provider.offerings()
        #: Where its nodes put their results; None: the cluster downloads them.
        self.bucket = Bucket(self.config.s3) if self.config.s3 is not None else None

    @property
    def name(self) -> str:
        """The label of its entry."""
        return self.config.label

    @property
    def has_queue(self) -> bool:
        """True if the provider queues machines until there is capacity."""
        return self._provider.has_queue

    @property
    def node_port(self) -> int:
        """Port of nodes whose machine does not report one."""
        return self._provider.node_port

    def bootstrap(self, name: str, offering: Offering, *, token: str) -> str:
        """Render bootstrap data."""
        return self._provider.bootstrap(name, offering, token=token)

    def shown(self, name: str, offering: Offering) -> str:
        """Render bootstrap data for operators, without secrets."""
        text = self.bootstrap(name, offering, token="***")  # noqa: S106 - masked
        for secret in self._provider.secrets():
            escaped = json.dumps(secret)[1:-1]
            for form in (json.dumps(escaped)[1:-1], escaped, secret):  # JSON in JSON, JSON, plain
                text = text.replace(form, "***")
        return text

    async def check(self) -> None:
        """Raise a ProviderError if the provider or its bucket is not usable."""
        await self._call("check", self._provider.check, tries=_TRIES)
        if self.bucket is not None:
            await self.bucket.check()

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Create a machine. Not retried here: only the caller knows what was stored."""
        return await self._call("create", lambda: self._provider.create(spec))

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """Return a machine; None if there is none."""
        return await self._call("get", lambda: self._provider.get(machine_id, location), tries=_TRIES)

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Return all machines of this cluster."""
        return await self._call("list", lambda: self._provider.list_machines(cluster), tries=_TRIES)

    async def delete(self, machine: ProviderMachine) -> None:
        """Delete a machine; one that is gone is no error."""
        await self._call("delete", lambda: self._provider.delete(machine))

    async def close(self) -> None:
        """Release connections and other resources."""
        await self._provider.close()

    async def _call(self, name: str, work: Callable[[], Awaitable[T]], *, tries: int = 1) -> T:
        for count in range(1, tries):
            try:
                return await self._once(name, work)
            except (Throttled, Unreachable):
                if self.pause.remaining > _PATIENCE:
                    raise
                wait = Backoff(first=_DELAY, longest=_LONGEST).wait(count, chance())
                await asyncio.sleep(max(wait, self.pause.remaining + _TICK))
        return await self._once(name, work)

    async def _once(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        async with self._turns:
            if not self.pause.strikes:
                return await self._now(name, work)
            async with self._trial:
                return await self._now(name, work)

    async def _now(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        if self.pause.remaining:
            raise self._throttled()
        outcome = "failed"
        try:
            async with asyncio.timeout(_TIMEOUT):
                result = await work()
            outcome = "ok"
            self.pause.worked()
        except TimeoutError:
            raise Unreachable(f"no response within {_TIMEOUT:g} s") from None
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
        except Exception as error:  # noqa: BLE001 - an edge: a bug in a provider must not end the work item
            _log.warning("provider raised an unexpected error", provider=self.name, call=name, exc_info=True)
            raise Unreachable(f"an unexpected response ({type(error).__name__})") from None
        finally:
            self._metrics.provider_calls.labels(self.name, name, outcome).inc()
        return result

    def _begin_pause(self, call: str, until: float, why: str) -> None:
        if not self.pause.remaining:
            _log.warning("provider asks for a pause", provider=self.name, call=call, why=why)
        self.pause.begin(until, why)

    def _throttled(self) -> Throttled:
        return Throttled(self.pause.text, until=self.pause.until)


def _outcome(error: ProviderError) -> str:
    """Return the metric label of an error; a subclass counts as its base."""
    return next(kind.__name__.lower() for kind in type(error).__mro__ if kind in _ERRORS)
