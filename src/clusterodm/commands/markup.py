# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Text of others on a terminal."""

from __future__ import annotations

from rich.markup import escape

from clusterodm.core.names import printable


def safe(text: str) -> str:
    """Return text that clients, nodes or providers wrote as markup that prints it literally."""
    return escape(printable(text))
