# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `clusterodm` command."""

from __future__ import annotations

import sys

import typer

from clusterodm import __version__
from clusterodm.commands.demo import demo
from clusterodm.commands.devnode import devnode
from clusterodm.commands.serve import serve_command
from clusterodm.commands.submit import submit
from clusterodm.core.errors import ClusterError, ConfigError

app = typer.Typer(
    help="Many NodeODM processing nodes behind one address.",
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
    if version:
        typer.echo(f"clusterodm {__version__}")
        raise typer.Exit


app.command("serve")(serve_command())
app.command()(demo)
app.command()(devnode)
app.command()(submit)

_COMMANDS = {"serve", "demo", "devnode", "submit"}
_ROOT_FLAGS = {"--help", "--version", "--install-completion", "--show-completion"}


def main() -> None:
    """Entry point. Without a command it is `serve`, so that command lines of the original go on working."""
    arguments = sys.argv[1:]
    first = arguments[0] if arguments else ""
    if first not in _COMMANDS | _ROOT_FLAGS and (not first or first.startswith("-")):
        arguments = ["serve", *arguments]
    try:
        app(args=arguments, prog_name="clusterodm")
    except ClusterError as error:
        for line in str(error).splitlines():
            typer.echo(f"clusterodm: {line}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()
