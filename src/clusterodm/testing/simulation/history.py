# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The history of a simulation: what actors did and saw, in the order in which it happened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    at: float
    actor: str
    kind: str
    #: What it is about: the uuid of a task, a machine, or nothing.
    subject: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return the event as a line of a timeline."""
        details = " ".join(f"{name}={value}" for name, value in self.details.items())
        return f"{self.at:12.3f}  {self.actor:<14} {self.kind:<18} {self.subject} {details}".rstrip()


class History:
    """A growing list of events."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.events: list[Event] = []
        self._watchers: list[Callable[[Event], None]] = []

    def add(self, actor: str, kind: str, subject: str = "", **details: Any) -> None:
        """Add an event that happens now."""
        event = Event(self._now(), actor, kind, subject, details)
        self.events.append(event)
        for watcher in self._watchers:
            watcher(event)

    def watch(self, watcher: Callable[[Event], None]) -> None:
        """Call `watcher(event)` after each event."""
        self._watchers.append(watcher)

    def of(self, *kinds: str, subject: str | None = None) -> Iterator[Event]:
        """Return the events of these kinds, and of a subject if given."""
        for event in self.events:
            if event.kind in kinds and (subject is None or event.subject == subject):
                yield event

    def digest(self) -> str:
        """Return the hash of the whole history."""
        return digest_of(self.events)


def digest_of(events: Iterable[Event]) -> str:
    """Return a hash of events, the same on every machine."""
    total = hashlib.sha256()
    for event in events:
        details = "\0".join(f"{name}={value!r}" for name, value in event.details.items())
        total.update(f"{event.at!r}\0{event.actor}\0{event.kind}\0{event.subject}\0{details}\n".encode())
    return total.hexdigest()
