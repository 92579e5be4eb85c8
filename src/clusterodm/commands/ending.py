# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How every command runs and ends: errors as one clear line, exit codes that scripts can trust."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

import typer
import uvloop

from clusterodm.core.errors import ClusterError, ConfigError, DataFolderError


def run_until_done(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a command's coroutine on the fast event loop. 1 is a failure, 2 a wrong call, 130 an interruption."""
    errors: list[BaseException] = []
    code = 130
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    # nothing is raised in here: before Python 3.11.4 it would come out in a group
    except* (ConfigError, DataFolderError) as group:
        code, errors = 2, _leaves(group)
    except* ClusterError as group:
        code, errors = 1, [*errors, *_leaves(group)]
    except* KeyboardInterrupt:
        pass
    for error in errors:
        typer.echo(f"clusterodm: {error}", err=True)
    sys.exit(code)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
