# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which waiting tasks machines will serve: written by the autoscaler, read where waits are explained."""

from __future__ import annotations

from collections.abc import Mapping, Set


class Outlook:
    """The latest scale plan, as far as it concerns waiting tasks."""

    def __init__(self) -> None:
        #: What to add to the reason of a wait, by task.
        self.remarks: Mapping[str, str] = {}
        #: Tasks for which a machine is ready, pending or launched.
        self.served: Set[str] = frozenset()
