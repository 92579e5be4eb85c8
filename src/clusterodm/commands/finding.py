# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `clusterodm doctor` says."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    text: str
    #: What to do about it; empty when it is well.
    fix: str = ""
