# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Task identifiers."""

from __future__ import annotations

import re
from typing import Final

from clusterodm.core.errors import BadRequest

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-7][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def is_task_id(text: str) -> bool:
    """Return True if `text` is a lower-case uuid of version 1 to 7."""
    return _UUID.fullmatch(text) is not None


def parse_set_uuid(text: str) -> str:
    """Return the uuid of a `set-uuid` header in lower case. Raises BadRequest, as a node does."""
    lowered = text.strip().lower()
    if not is_task_id(lowered):
        raise BadRequest(f"Invalid set-uuid: {text[:100]}")
    return lowered
