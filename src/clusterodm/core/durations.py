# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Durations and times for display."""

from __future__ import annotations


def time_of_day(at: float) -> str:
    """Return the time of day of a moment (seconds since the epoch)."""
    seconds = int(at) % 86400
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02} UTC"


def elapsed(since: float, until: float) -> float:
    """Return the seconds between two wall-clock times; 0 if the clock was set back in between."""
    return max(0.0, until - since)


def span(seconds: float | None) -> str:
    """Return a duration in one unit; a dash if there is none."""
    if seconds is None or seconds < 0:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
