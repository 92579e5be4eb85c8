# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What dispatcher and autoscaler tell each other: which tasks want machines, and which of them machines will serve."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Outlook:
    """The latest placement and the latest scale plan, as far as they concern waiting tasks."""

    #: Tasks that only wait for a slot, next first, and those that will in a moment; set by the dispatcher.
    wanting: list[str] = field(default_factory=list)
    soon: list[str] = field(default_factory=list)
    #: What to add to the reason of a wait, by task; set by the autoscaler, as is the next one.
    remarks: Mapping[str, str] = field(default_factory=dict)
    #: Tasks for which a machine is ready, pending or launched.
    served: Set[str] = frozenset()
