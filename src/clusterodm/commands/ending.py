# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How every command runs and ends: errors as one clear line, exit codes that scripts can trust."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

import typer
import uvloop

from clusterodm.core.errors import ClusterError, ConfigError, DataFolderError


def run_until_done(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a command's coroutine on the fast event loop. 1 is a failure, 2 a wrong call, 130 an interruption."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    except* (ConfigError, DataFolderError) as group:
        _fail(group, 2)
    except* ClusterError as group:
        _fail(group, 1)
    except* KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fail(group: BaseExceptionGroup[BaseException], code: int) -> NoReturn:
    for error in _leaves(group):
        typer.echo(f"clusterodm: {error}", err=True)
    sys.exit(code)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
