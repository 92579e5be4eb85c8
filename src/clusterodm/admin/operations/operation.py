# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One row of the table of operations."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, Literal

import msgspec

from clusterodm.admin.operations.parameters import Nothing
from clusterodm.admin.views import View


class Verb(msgspec.Struct, frozen=True):
    """A command of the shell."""

    words: str
    #: As HELP shows them: the subject first, then the parameters in the order of their struct.
    usage: str = ""
    #: What HELP says; empty: the summary of the operation.
    meaning: str = ""
    #: What an unknown node or task is answered with; the original has both.
    unknown: Literal["FAIL", "INVALID"] = "FAIL"
    #: The answer to a request that cannot be carried out.
    failure: str = "FAIL: {}"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What operators can do, and where: each of route, shell and command may be missing."""

    #: Module and function in this folder, which is called with the cluster, the subject and the parameters.
    name: str
    summary: str
    result: Any
    #: Names the node, task or machine to work on.
    subject: type[View] = Nothing
    parameters: type[View] = Nothing
    #: Method and path below /api/v1. Parameters are the query of a GET, the body of a POST.
    route: str = ""
    verb: Verb | None = None
    #: Group and name of the command.
    command: str = ""

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.route.partition(" ")[0]

    @property
    def path(self) -> str:
        """The whole path of the route."""
        return f"/api/v1{self.route.partition(' ')[2]}"

    @property
    def has_body(self) -> bool:
        """True if the parameters are the body of the request."""
        return self.method == "POST" and self.parameters is not Nothing

    async def run(self, cluster: Any, *subject: Any, **parameters: Any) -> Any:
        """Carry out the operation; return its result. Raises ClusterError."""
        result = self.function(cluster, *subject, **parameters)
        return await result if inspect.isawaitable(result) else result

    @property
    def function(self) -> Any:
        """What carries the operation out; imported at the first call."""
        module, _, name = self.name.partition(".")
        return getattr(import_module(f"clusterodm.admin.operations.{module}"), name)
