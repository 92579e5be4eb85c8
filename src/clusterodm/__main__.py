# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `clusterodm` command."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Any, Final

import typer

from clusterodm import __version__
from clusterodm.core.errors import ClusterError, ConfigError

#: Each command is a function, or a group of commands, of the same name in a module of the same name.
COMMANDS: Final = (
    "serve",
    "submit",
    "status",
    "queue",
    "node",
    "task",
    "upload",
    "machine",
    "doctor",
    "health",
    "demo",
    "devnode",
    "import",
    "migrate-store",
    "backup",
    "restore",
)
#: What these write is for the eyes of their user alone, whatever the umask.
_PRIVATE: Final = ("serve", "import", "migrate-store", "backup", "restore")
_ROOT_FLAGS: Final = ("--help", "--version", "--install-completion", "--show-completion")


def build_app(wanted: str = "") -> typer.Typer:
    """The command line. Only the wanted command is loaded when there is one: the cluster needs no progress bars."""
    app = typer.Typer(
        help="Many NodeODM processing nodes behind one address.", rich_markup_mode=None, pretty_exceptions_enable=False
    )

    @app.callback(invoke_without_command=True)
    def _root(version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
        if version:
            typer.echo(f"clusterodm {__version__}")
            raise typer.Exit

    for name in _needed(wanted):
        command = load(name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, context_settings={"token_normalize_func": _with_dashes})(command)
    return app


def _with_dashes(flag: str) -> str:
    """Return the flag with dashes: NodeODM takes --test_seconds for --test-seconds."""
    return flag.replace("_", "-")


def _needed(wanted: str) -> Sequence[str]:
    if wanted == "--version":
        return ()
    return (wanted,) if wanted in COMMANDS else COMMANDS


def load(name: str) -> Any:
    """A command's function, or its group of commands."""
    word = name.replace("-", "_") + ("_" if iskeyword(name) else "")
    return getattr(import_module(f"clusterodm.commands.{word}"), word)


def main() -> None:
    """Entry point. Without a command it is `serve`, so that command lines of the original go on working."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _ROOT_FLAGS):
        arguments = ["serve", *arguments]
    if arguments[0] in _PRIVATE:
        os.umask(0o077)
    try:
        gc.disable()  # what is imported stays: looking for garbage among it takes a tenth of the start
        if arguments[0] == "serve":
            arguments = import_module("clusterodm.commands.serve").plain_switches(arguments)
        app = build_app(arguments[0])
        gc.freeze()
        gc.enable()
        app(args=arguments, prog_name="clusterodm")
    except ClusterError as error:
        for line in str(error).splitlines():
            typer.echo(f"clusterodm: {line}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()
