# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The options of a task, filtered as on a node: unknown ones are dropped, values are converted by JavaScript's rules
and checked against every kind of domain, and the first entry of a name wins. The cluster shares nothing of this, so
the node finds its mistakes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from clusterodm.core.errors import BadRequest
from clusterodm.devnode.config import integer

Option = dict[str, Any]

#: Options that a node adds to every task that is post-processed.
_ADDED: Final = ("pc-ept", "cog", "gltf")
_FLOAT: Final = re.compile(r"\s*([-+]?(?:Infinity|\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?))")
_SIGNED: Final = re.compile(r"(positive |negative )?(integer|float)")
_BETWEEN: Final = re.compile(r"(?:float|integer): ([-+.\d]+) <= x <= ([-+.\d]+)")
_BOUND: Final = re.compile(r"(?:float|integer) (>=|>|<|<=) ([-+.\d]+)")


def filter_options(submitted: Any, described: list[Option], max_concurrency: int = 0) -> list[Option]:
    """Return the options that a task runs with, in the order of the description. Raises BadRequest with all errors."""
    accepted: list[Option] = []
    errors: list[dict[str, str]] = []
    by_name: dict[str, Option] = {}
    for entry in _entries(submitted):
        by_name.setdefault(entry["name"], entry)
    for option in described:
        if option["name"] not in by_name:
            continue
        entry = by_name[option["name"]]
        try:
            accepted.append({"name": option["name"], "value": _value(entry.get("value"), option)})
        except ValueError as error:
            errors.append({"name": option["name"], "error": str(error)})
    if errors:
        raise BadRequest(msgspec.json.encode(errors).decode())
    return _capped(accepted, described, max_concurrency) if max_concurrency else accepted


def add_own(options: list[Option], described: list[Option]) -> None:
    """Add the options that a node adds to every task that is post-processed."""
    for name in _ADDED:
        if _has(described, name) and not _has(options, name):
            options.append({"name": name, "value": True})


def _has(options: list[Option], name: str) -> bool:
    return any(option["name"] == name for option in options)


def _entries(submitted: Any) -> list[Option]:
    if isinstance(submitted, str):
        try:
            submitted = msgspec.json.decode(submitted)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadRequest(str(error)) from None
    if not isinstance(submitted, list):
        return []
    return [entry for entry in submitted if isinstance(entry, dict) and isinstance(entry.get("name"), str)]


def _capped(options: list[Option], described: list[Option], limit: int) -> list[Option]:
    for option in options:
        if option["name"] == "max-concurrency":
            option["value"] = min(option["value"], limit)
            return options
    return [*options, {"name": "max-concurrency", "value": limit}] if _has(described, "max-concurrency") else options


def _value(submitted: Any, option: Option) -> Any:
    value = _CONVERTERS[option["type"]](submitted)
    domain = option.get("domain", "")
    if isinstance(domain, list):
        if value not in domain:
            raise ValueError(f"Invalid value {_shown(value)} (not in enum)")
    elif domain and not _in_domain(value, domain):
        raise ValueError(f"Invalid value {_shown(value)} (out of range)")
    return None if isinstance(value, float) and math.isnan(value) else value


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _to_int(value: Any) -> int | float:
    number = integer(_text(value))
    return math.nan if number is None else number


def _to_float(value: Any) -> int | float:
    match = _FLOAT.match(_text(value))
    number = float(match[1]) if match else math.nan
    return int(number) if math.isfinite(number) and number == int(number) else number


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("true", "1", "false", "0"):
        raise ValueError(f"Cannot convert {_shown(value)} to boolean")
    return value in ("true", "1")


def _as_it_is(value: Any) -> Any:
    return value


_CONVERTERS: Final[dict[str, Callable[[Any], Any]]] = {
    "int": _to_int,
    "float": _to_float,
    "bool": _to_bool,
    "string": _as_it_is,
    "path": _as_it_is,
    "enum": _as_it_is,
}


def _in_domain(value: Any, domain: str) -> bool:
    """Return True if a domain in words allows a value. Raises ValueError for a domain that a node cannot parse."""
    if domain in ("string", "path"):
        return True
    if domain == "json":
        return _is_json(value)
    number = value if isinstance(value, int | float) else math.nan
    if domain == "percent":
        return 0 <= number <= 100
    if match := _SIGNED.fullmatch(domain):
        return _has_sign(number, match[1], match[2])
    if match := _BETWEEN.fullmatch(domain):
        return float(match[1]) <= number <= float(match[2])
    if match := _BOUND.fullmatch(domain):
        bound = float(match[2])
        return {">=": number >= bound, ">": number > bound, "<": number < bound, "<=": number <= bound}[match[1]]
    raise ValueError(f"Domain value cannot be handled: '{domain}' : '{value}'")


def _has_sign(number: float, sign: str | None, kind: str) -> bool:
    """Return True if a number has the sign, if any, else the kind: a node lets `positive integer` be 1.5."""
    if sign is not None:
        return number >= 0 if sign == "positive " else number <= 0
    return math.isfinite(number) and (kind == "float" or number == int(number))


def _is_json(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
