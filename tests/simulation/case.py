# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A history, by task, and what in it excuses a violation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from clusterodm.core.tasks import node_uuid
from clusterodm.testing.simulation import Event, History

if TYPE_CHECKING:
    from tests.simulation.scenario import Scenario

_MOST_ATTEMPTS: Final = 60
#: Seconds within which a replica is as new as its database again.
_RECONNECTS: Final = 15.0
#: Calls of a webhook that is refused.
_WEBHOOK_TRIES: Final = 10


@dataclass
class TaskStory:
    """One task in the history."""

    uuid: str
    events: list[Event]
    files: str = ""
    accepted_at: float | None = None

    def of(self, *kinds: str) -> list[Event]:
        """Return its events of these kinds."""
        return [event for event in self.events if event.kind in kinds]

    @property
    def removed(self) -> bool:
        """True if its owner ordered its removal."""
        return any(event.details["verb"] == "remove" for event in self.of("ordering"))

    @property
    def orders(self) -> list[str]:
        """The orders of its owner."""
        return [event.details["verb"] for event in self.of("ordering")]


class Case:
    """A history, by task."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.history: History = scenario.history
        self.settled = scenario.settled_at is not None
        #: Uuids of attempts on nodes, and the task of each.
        self.attempts: dict[str, str] = {}
        by_uuid: dict[str, list[Event]] = {}
        for event in self.history.events:
            if event.kind == "announced":
                for number in range(1, _MOST_ATTEMPTS):
                    self.attempts[node_uuid(event.subject, number)] = event.subject
            by_uuid.setdefault(self.attempts.get(event.subject, event.subject), []).append(event)
        self.tasks: list[TaskStory] = []
        for event in self.history.of("announced"):
            story = TaskStory(event.subject, by_uuid[event.subject], files=event.details["files"])
            accepted = story.of("accepted")
            story.accepted_at = accepted[0].at if accepted else None
            self.tasks.append(story)

    def left_to_nodes(self, uuid: str) -> bool:
        """Return True for an attempt whose cleanup looks three days old: nodes have dropped it by then."""
        events = self.history.of("announced", subject=self.attempts.get(uuid, ""))
        return any(self.aged(event.at) for event in events)

    def stale(self, at: float) -> bool:
        """Return True if a replica may have answered from memory then, because it did not reach its database."""
        ends = {event.details["fault"]: event.at for event in self.history.of("fault ends")}
        for event in self.history.of("fault begins"):
            number, kind, *_ = event.details["fault"].removeprefix("fault ").split(":")
            if "database" in kind and event.at <= at <= ends.get(int(number), at) + _RECONNECTS:
                return True
        return False

    def lost_files(self, uuid: str) -> bool:
        """Return True if the cluster lost files of a task with its power: they had not reached the disk."""
        return any(uuid in event.details["lost"] for event in self.history.of("cluster loses power"))

    def aged(self, since: float) -> bool:
        """Return True if the cluster's clock was set far forward after `since`, and a later start of the cluster has
        not observed it: what is stored of that time is as old as it looks."""
        jumps = [event.at for event in self.history.of("clock jumps") if event.details["seconds"] > 0]
        starts = [event.at for event in self.history.of("cluster starts")]
        return any(since <= jump <= start for jump in jumps for start in starts)


def given_up(history: History, uuid: str, since: float) -> bool:
    """Return True if a receiver has refused all calls of a webhook."""
    return sum(event.at >= since for event in history.of("webhook refused", subject=uuid)) >= _WEBHOOK_TRIES
