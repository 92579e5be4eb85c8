# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The life of a machine that we create and delete.

ORDERED ─▶ BOOTING ─▶ READY ─▶ DRAINING ─▶ DELETING ─▶ GONE
   └──────────┴─────────┴────────────────────▲          ▲
   └──────────┴─────────┴──────────┴──────────┴─────────┘

Each step is stored before what it stands for is done. From everywhere a way leads to GONE, and nothing leads back from
DELETING: a machine that is being deleted is deleted until its provider says that it is not there.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from clusterodm.core.errors import StaleMachine


class State(StrEnum):
    """Where a machine is in our hands."""

    #: We want it: its provider is asked until it says yes or no.
    ORDERED = "ordered"
    #: The provider has made it; its node does not answer yet.
    BOOTING = "booting"
    #: Its node takes tasks.
    READY = "ready"
    #: It gets nothing new and ends its tasks; then it is deleted.
    DRAINING = "draining"
    #: The provider is told to delete it until it is gone.
    DELETING = "deleting"
    #: Not there any more, or never was.
    GONE = "gone"


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.ORDERED: frozenset({State.BOOTING, State.DELETING, State.GONE}),
    State.BOOTING: frozenset({State.READY, State.DELETING, State.GONE}),
    State.READY: frozenset({State.DRAINING, State.DELETING, State.GONE}),
    State.DRAINING: frozenset({State.READY, State.DELETING, State.GONE}),
    State.DELETING: frozenset({State.GONE}),
    State.GONE: frozenset(),
}

#: States in which a machine will take a task, or takes one.
PENDING_STATES: Final = frozenset({State.ORDERED, State.BOOTING})
ALIVE: Final = frozenset(State) - {State.GONE}


def require_transition(source: State, to: State) -> None:
    """Raise StaleMachine unless `to` may follow `source`."""
    if to not in TRANSITIONS[source]:
        raise StaleMachine(f"a machine cannot go from {source} to {to}")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine as the store keeps it. Times are seconds since the epoch, 0: not yet."""

    #: Its name at the provider, unique for ever.
    id: str
    #: Which entry of the configuration it comes from.
    provider: str
    state: State
    size: str
    location: str
    spot: bool = False
    #: Images of the largest task that it takes, and tasks at a time.
    max_images: int
    slots: int = 1
    #: What an hour costs, as configured; 0: not known.
    price: float = 0.0
    #: The task that it was ordered for; empty: to be ready for any.
    task: str = ""
    #: What the provider calls it, once that is known.
    provider_id: str = ""
    address: str = ""
    #: A secret that its node and we know.
    token: str = ""
    node_id: int = 0
    #: Disks that the provider leaves behind when the machine goes.
    volumes: list[str] = []
    ordered_at: float = 0.0
    booting_at: float = 0.0
    ready_at: float = 0.0
    #: Since when it has had nothing to do.
    idle_since: float = 0.0
    gone_at: float = 0.0
    #: Not deleted for want of work, because an operator said so.
    kept: bool = False
    #: Why it is in this state, in words.
    reason: str = ""

    def __repr__(self) -> str:
        return f"Machine({self.id}, {self.state})"


class MachineEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a machine's history: the state that it entered, when (seconds since the epoch) and why."""

    machine: str
    at: float
    state: State
    text: str
