# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The states of a machine that the cluster creates and deletes.

ORDERED ─▶ BOOTING ─▶ READY ─▶ DRAINING ─▶ DELETING ─▶ GONE
   └──────────┴─────────┴────────────────────▲          ▲
   └──────────┴─────────┴──────────┴──────────┴─────────┘

Each state is stored before it is acted upon. GONE is reachable from every state, and nothing leads back from DELETING:
deletion is repeated until the provider denies the machine.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from clusterodm.core.errors import StaleMachine


class State(StrEnum):
    """The state of a machine."""

    #: Its provider is asked to create it, until it accepts or refuses.
    ORDERED = "ordered"
    #: Created; its node is not online yet.
    BOOTING = "booting"
    #: Its node takes tasks.
    READY = "ready"
    #: Not accepting tasks; deleted once its tasks are finished.
    DRAINING = "draining"
    #: Its provider is asked to delete it, until it is gone.
    DELETING = "deleting"
    #: Deleted, or never created.
    GONE = "gone"


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.ORDERED: frozenset({State.BOOTING, State.DELETING, State.GONE}),
    State.BOOTING: frozenset({State.READY, State.DELETING, State.GONE}),
    State.READY: frozenset({State.DRAINING, State.DELETING, State.GONE}),
    State.DRAINING: frozenset({State.READY, State.DELETING, State.GONE}),
    State.DELETING: frozenset({State.GONE}),
    State.GONE: frozenset(),
}

#: States of a machine that will be ready.
PENDING_STATES: Final = frozenset({State.ORDERED, State.BOOTING})
ALIVE: Final = frozenset(State) - {State.GONE}


def require_transition(source: State, to: State) -> None:
    """Raise StaleMachine unless `to` may follow `source`."""
    if to not in TRANSITIONS[source]:
        raise StaleMachine(f"a machine cannot go from {source} to {to}")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine as stored. Times are seconds since the epoch, 0: not yet."""

    #: Its name at the provider; never reused.
    id: str
    #: The entry of the configuration that it was launched from.
    provider: str
    state: State
    size: str
    location: str
    spot: bool = False
    #: Limit of images of a task, and concurrent tasks.
    max_images: int
    slots: int = 1
    #: Configured price per hour; 0: unknown.
    price: float = 0.0
    #: The task that it was launched for; empty: to be kept ready.
    task: str = ""
    #: The provider's id, once known.
    provider_id: str = ""
    address: str = ""
    #: The token of its node, a secret.
    token: str = ""
    node_id: int = 0
    #: Disks that the provider does not delete with the machine.
    volumes: list[str] = []
    ordered_at: float = 0.0
    booting_at: float = 0.0
    ready_at: float = 0.0
    #: When it became idle.
    idle_since: float = 0.0
    gone_at: float = 0.0
    #: Kept by an operator although it is idle.
    kept: bool = False
    #: Why it is in this state.
    reason: str = ""

    def __repr__(self) -> str:
        return f"Machine({self.id}, {self.state})"


class MachineEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a machine's history: the state that it entered, when (seconds since the epoch) and why."""

    machine: str
    at: float
    state: State
    text: str
