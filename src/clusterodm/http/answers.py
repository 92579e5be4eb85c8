# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The error table: which exception becomes which status and body, for clients, operators and the shell.

Clients and operators get `{"error": text}`, each with their own status: nodes answer errors with 200, and clients look
into the body. The shell prints `FAIL: text`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from clusterodm.core import errors
from clusterodm.core.errors import BadRequest, ClusterError

#: The text of every error that is a bug.
BUG: Final = "Something went wrong here; the log says what"


class Row(msgspec.Struct, frozen=True):
    """One row of the table: HTTP statuses, and the text around that of the error."""

    clients: int
    operators: int
    text: str = "{}"
    #: The status that clients get to an upload instead, so that each of them sends the file again: the page of a node
    #: takes each status below 300 for success and would commit without the file, and PyODM shows the text of 200 and
    #: 403 only. None: no other.
    uploads: int | None = None


#: An error without a row is answered as its base is.
TABLE: Final[dict[type[ClusterError], Row]] = {
    errors.ClusterError: Row(200, 409),
    errors.BadRequest: Row(200, 409),
    errors.Malformed: Row(200, 400),
    errors.TaskNotFound: Row(200, 404),
    errors.NodeNotFound: Row(200, 404),
    errors.MachineNotFound: Row(200, 404),
    errors.Unauthorized: Row(401, 401),
    errors.ServiceDown: Row(200, 503, "{}, try again later", uploads=403),
    errors.StoreDown: Row(503, 503),  # a balancer may try another replica
    errors.SpoolFull: Row(200, 503, uploads=403),
    errors.ClientGone: Row(408, 408),
    errors.NodeError: Row(200, 502, "The node cannot be reached now ({}), try again later"),
    errors.FetchFailed: Row(200, 502),
    errors.ProviderError: Row(200, 502),
    errors.ConfigError: Row(200, 409),  # the request can be read, but not followed
    errors.DataFolderError: Row(200, 503),
}
#: The row of every exception that is no ClusterError.
OTHER: Final = Row(200, 500)


def row(error: Exception) -> Row:
    """Return the row of an error."""
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), OTHER)


def text(error: Exception) -> str:
    """Return the text of an error; of a bug, nothing but that it is one."""
    return row(error).text.format(error) if isinstance(error, ClusterError) else BUG


def body(error: Exception) -> dict[str, Any]:
    """Return the JSON body of an error."""
    final = {"noRetry": True} if isinstance(error, BadRequest) and error.no_retry else {}
    return {"error": text(error), **final}
