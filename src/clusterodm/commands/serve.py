# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm serve`: run the cluster until a signal to stop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import structlog
import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from clusterodm.admin.password import with_password
from clusterodm.commands.ending import Signals, run_until_done
from clusterodm.commands.workers import run_workers
from clusterodm.observe import configure_logging
from clusterodm.server.app import running_cluster
from clusterodm.server.serving import Sockets
from clusterodm.settings import RETIRED, Settings, described, env_name, flag_name, is_switch, load_settings

_SHORT = {"port": "-p", "cloud_provider": "-c"}
#: Values of a switch.
_WORDS = ("true", "false")
_log = structlog.get_logger("clusterodm")


async def _serve(settings: Settings, sockets: Sockets | None = None, *, adopt: bool) -> None:
    signals = Signals(worker=sockets is not None)
    async with running_cluster(settings, sockets=sockets, at_once=signals.at_once, adopt=adopt) as cluster:
        await signals.until_stop(cluster.reload)
        _log.info("stopping", grace=settings.shutdown_grace)


def _run(config: Path | None, *, adopt: bool, **flags: Any) -> None:
    settings, generated = with_password(load_settings(flags, config=config))
    configure_logging(settings.log_level, debug=settings.debug)
    if generated:
        file = settings.data_dir / str(settings.admin_pass_file)
        typer.echo(f"Generated the password of operators (LOGIN in the shell, user admin on the page): {generated}")
        typer.echo(f"It is stored in {file} and not shown again.")
    if settings.workers > 1:
        run_workers(settings, lambda sockets: run_until_done(_serve(settings, sockets, adopt=adopt)))
    else:
        run_until_done(_serve(settings, adopt=adopt))


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return the command-line option of a setting."""
    kind, typer_type = _typed(field)
    names = [f"--{flag_name(name)}", *([_SHORT[name]] if name in _SHORT else [])]
    if is_switch(name):
        names = [f"--{flag_name(name)}/--no-{flag_name(name)}"]
    option = typer.Option(
        *names, help=f"{described(name)}{_shown_default(field)} [{env_name(name)}]", show_default=False, **typer_type
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _retired(name: str) -> inspect.Parameter:
    """Return a hidden flag, which is refused with what to use instead."""
    option = typer.Option(f"--{flag_name(name)}", hidden=True)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def plain_switches(arguments: Sequence[str]) -> list[str]:
    """Return the command line without values of switches: the original accepts `--debug=true` and `--debug true`."""
    plain: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and is_switch(name.removeprefix("no_")):
            if not equals and rest and rest[0] in _WORDS:
                value = rest.pop(0)
            if value == "false":
                argument = f"--{flag[5:]}" if name.startswith("no_") else f"--no-{flag[2:]}"
            elif value == "true":
                argument = flag
        plain.append(argument)
    return plain


def _typed(field: FieldInfo) -> tuple[Any, dict[str, Any]]:
    """Return text for most settings: the model checks values, with the same errors for all sources."""
    if field.annotation is bool:
        return (bool | None), {}
    if get_origin(field.annotation) is list:
        return (list[str] | None), {"metavar": "TEXT"}
    if get_origin(field.annotation) is Literal:
        return (str | None), {"metavar": "NAME"}
    metavars: dict[Any, str] = {int: "INTEGER", float: "NUMBER", Path: "PATH"}
    return (str | None), {"metavar": metavars.get(field.annotation, "TEXT")}


def _shown_default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "" if isinstance(value, SecretStr | list | bool) or value == "" else f" Default: {value}."


def _command() -> Callable[..., None]:
    """Make the command function, with one option for each setting."""

    def serve(config: Path | None, *, adopt: bool = False, **flags: Any) -> None:
        """Run the cluster; the default command."""
        _run(config, adopt=adopt, **{name: value for name, value in flags.items() if value not in (None, [], ())})

    config = Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="JSON file with the same keys. [CLUSTERODM_CONFIG]",
            envvar="CLUSTERODM_CONFIG",
            show_envvar=False,
        ),
    ]
    parameters = [inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=config)]
    adopting = Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="Once: pair a data folder and a database that do not belong together. Uploads begin again; files of "
            "tasks that are not in the database go to the trash folder after 48 hours.",
        ),
    ]
    parameters.append(inspect.Parameter("adopt", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=adopting))
    parameters += [_parameter(name, field) for name, field in Settings.model_fields.items()]
    parameters += [_retired(name) for name in RETIRED]
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return serve


serve = _command()
