# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an error is answered with: one table for all who ask.

Clients and operators get `{"error": text}`, each with a status of their own: nodes answer errors with 200, and clients
look into the body. The shell says `FAIL: text`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from clusterodm.core import errors
from clusterodm.core.errors import BadRequest, ClusterError

#: What is told of a bug.
BUG: Final = "Something went wrong here; the log says what"


class Row(msgspec.Struct, frozen=True):
    """One row of the table: HTTP statuses, and the text around that of the error."""

    clients: int
    operators: int
    text: str = "{}"


#: An error that has no row is answered as its base is.
TABLE: Final[dict[type[ClusterError], Row]] = {
    errors.ClusterError: Row(200, 409),
    errors.BadRequest: Row(200, 409),
    errors.Malformed: Row(200, 400),
    errors.TaskNotFound: Row(200, 404),
    errors.NodeNotFound: Row(200, 404),
    errors.MachineNotFound: Row(200, 404),
    errors.Unauthorized: Row(401, 401),
    errors.ServiceDown: Row(200, 503, "{}, try again later"),
    errors.StoreDown: Row(503, 503),  # a balancer may try another replica
    errors.SpoolFull: Row(200, 503),
    errors.ClientGone: Row(408, 408),
    errors.NodeError: Row(200, 502, "The node cannot be reached now ({}), try again later"),
    errors.FetchFailed: Row(200, 502),
    errors.ProviderError: Row(200, 502),
    errors.ConfigError: Row(200, 409),  # the request can be read, but not followed
    errors.DataFolderError: Row(200, 503),
}
#: That of an error that is none of ours.
OTHER: Final = Row(200, 500)


def row(error: Exception) -> Row:
    """The row of an error."""
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), OTHER)


def text(error: Exception) -> str:
    """What its caller is told; of a bug nothing but that it was one."""
    return row(error).text.format(error) if isinstance(error, ClusterError) else BUG


def body(error: Exception) -> dict[str, Any]:
    """The same as JSON."""
    final = {"noRetry": True} if isinstance(error, BadRequest) and error.no_retry else {}
    return {"error": text(error), **final}
