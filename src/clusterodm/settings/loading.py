# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where settings come from: flags, environment and JSON file, whose unknown keys are refused."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from clusterodm.core.effects import without_effect
from clusterodm.core.errors import ConfigError
from clusterodm.core.jsontext import decode_file
from clusterodm.settings.model import ENV_PREFIX, Settings, env_name, flag_name, is_switch

#: Variables that other parts of the program, or Kubernetes for a service named clusterodm, put there.
_FOREIGN_ENV: Final = re.compile(r"CLUSTERODM_(.*_)?(SERVICE_HOST|SERVICE_PORT.*|PORT_\d+_.*)")
#: Read by the commands that talk to a running cluster, not by `serve`.
CLIENT_ENV: Final = frozenset(
    ENV_PREFIX + name for name in ("CONFIG", "URL", "ADMIN_URL", "NODE_TOKEN", "DEVNODE_TOKEN")
)
#: Keys of the original that mean nothing, there or here, and what to use instead.
RETIRED: Final = {
    "cluster_address": "has no effect, as in the original; --public-address is how nodes reach the cluster"
}


def load_settings(
    flags: Mapping[str, Any], *, config: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Merge flags (None: not given), environment and JSON file, which it may name. Raises ConfigError."""
    environ = os.environ if environ is None else environ
    if config is None and (named := environ.get(ENV_PREFIX + "CONFIG")):
        config = Path(named)
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for place, layer in (
        (str(config), _from_file(config)),
        ("environment", _from_environ(environ)),
        ("flags", _named({name: value for name, value in flags.items() if value is not None}, "flags")),
    ):
        values |= layer
        origin |= dict.fromkeys(layer, place)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, origin))) from None
    defaults = {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
    idle = [f"{flag_name(name)} ({origin[name]}) {text}" for name, text in without_effect(dict(settings), defaults)]
    if idle:
        raise ConfigError("\n".join(idle))
    return settings


def _lines(error: ValidationError, origin: Mapping[str, str]) -> Iterable[str]:
    """Messages without the values themselves: one of them may be a secret."""
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        text = problem["msg"].removeprefix("Value error, ")
        field = str(problem["loc"][0]) if problem["loc"] else ""
        yield f"{flag_name(field)} ({origin.get(field, 'default')}): {text}" if field else text


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    return _named(read_config(path), str(path))


def read_config(path: Path) -> dict[str, Any]:
    """The JSON file of settings as it stands. Raises ConfigError."""
    try:
        content = decode_file(path.read_bytes(), str(path))
    except PermissionError:
        raise ConfigError(f"cannot read {path}: permission denied; try sudo, or the service's user") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold one JSON object")
    return content


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    variables = {}
    for name, value in environ.items():
        is_ours = name.startswith(ENV_PREFIX) and not _FOREIGN_ENV.fullmatch(name) and not value.startswith("tcp://")
        if is_ours and name not in CLIENT_ENV:
            variables[name.removeprefix(ENV_PREFIX).lower()] = value
    return _named(variables, "environment", written=env_name)


def _named(entries: Mapping[str, Any], place: str, *, written: Callable[[str], str] | None = None) -> dict[str, Any]:
    """Values by the names of their settings. Raises ConfigError for a key that is none."""
    written = written or flag_name
    named: dict[str, Any] = {}
    faults = []
    for key, raw in entries.items():
        name, value = key.replace("-", "_"), raw
        if name in RETIRED:
            if value != "":
                faults.append(f"{written(name)} ({place}) {RETIRED[name]}")
            continue
        if is_switch(name.removeprefix("no_")) and name.startswith("no_"):
            name, value = name.removeprefix("no_"), _opposite(value)
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.5)
            hint = f"; did you mean {written(near[0])}?" if near else ""
            faults.append(f"unknown setting {written(name)} ({place}){hint}")
        elif named.setdefault(name, value) != value:
            faults.append(f"{written(name)} ({place}) is given twice, and not the same")
    if faults:
        raise ConfigError("\n".join(faults))
    return named


def _opposite(value: Any) -> Any:
    """The other of yes and no; what is neither stays for the model to refuse."""
    try:
        return not TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return value
