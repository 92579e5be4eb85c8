# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Findings of `clusterodm doctor`."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, frozen=True):
    """The result of one check."""

    what: str
    verdict: Verdict
    text: str
    #: How to fix it; empty if it is ok.
    fix: str = ""
