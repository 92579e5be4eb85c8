# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Task options: read, checked and converted as a node does it; `sm-cluster` is set by the cluster alone."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from clusterodm.core.errors import BadRequest
from clusterodm.core.javascript import UNDEFINED, as_text, parse_float, parse_int, parses_as_json
from clusterodm.core.names import printable

Option = dict[str, Any]

#: The keys of one entry of `/options`; one more is a TypeError in PyODM.
KEYS: Final = ("name", "type", "value", "domain", "help")


#: The option that tells the engine where it sends the submodels of a split task.
SPLIT_CLUSTER: Final = "sm-cluster"


def exact(described: list[Option]) -> list[Option]:
    """Return each description with exactly the keys that clients accept."""
    return [{key: option.get(key, "") for key in KEYS} for option in described if option.get("name")]


def parse_options(text: str) -> list[Option]:
    """Read the client's `options` field. No text and anything but a list count as none, as on a node."""
    if not text:
        return []
    try:
        decoded = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"Invalid options: {error}") from None
    if not isinstance(decoded, list):
        return []
    if None in decoded:
        raise BadRequest("Invalid options: null is not an option")
    return [entry for entry in decoded if isinstance(entry, dict) and isinstance(entry.get("name"), str)]


def parse_outputs(text: str) -> list[str]:
    """Read the client's `outputs` field. Raises BadRequest."""
    if not text:
        return []
    try:
        return msgspec.json.decode(text, type=list[str])
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest("Invalid outputs: a JSON list of paths is expected") from None


def check_options(options: list[Option], described: list[Option]) -> list[Option]:
    """Known options in the order of their description, with their values converted; of two of one name the first
    counts, and unknown ones are left out. Raises BadRequest with the node's own form of error list.

    What passes here passes on a node, and the reverse, but for NaN where there is no domain.
    """
    by_name = {entry["name"]: entry for entry in reversed(options)}
    checked: list[Option] = []
    errors: list[dict[str, str]] = []
    for option in described:
        entry = by_name.get(option["name"])
        if entry is None:
            continue
        try:
            checked.append({"name": entry["name"], "value": _convert(entry.get("value", UNDEFINED), option)})
        except ValueError as error:
            errors.append({"name": entry["name"], "error": str(error)})
    if errors:
        raise BadRequest(msgspec.json.encode(errors).decode())
    return checked


def unknown_options(options: list[Option], described: list[Option]) -> list[str]:
    """Return a warning for each option that no node knows, which has no effect."""
    names = [option["name"] for option in described]
    unknown = dict.fromkeys(entry["name"] for entry in options if entry["name"] not in names)
    return [_unknown(name, names) for name in list(unknown)[:_MOST_TOLD]]


def added_options(own: list[Option], theirs: list[Option]) -> list[Option]:
    """What a node says that it runs a task with beside the task's own options: it adds some by itself."""
    own_names = {option["name"] for option in own} | {"sm-cluster"}  # which holds a token
    added = (option for option in theirs if isinstance(option.get("name"), str) and option["name"] not in own_names)
    small = ({"name": option["name"], "value": option.get("value")} for option in added)
    return [option for option in small if len(msgspec.json.encode(option)) <= _LARGEST_ADDED][:_MOST_TOLD]


def _unknown(name: str, names: list[str]) -> str:
    shown = printable(name)[:100]
    near = difflib.get_close_matches(shown, names, n=1)
    return f"option {shown} is unknown and has no effect" + (f"; did you mean {near[0]}?" if near else "")


def _convert(value: Any, option: Option) -> Any:
    kind, domain = option.get("type", "string"), option.get("domain", "")
    converted = _CONVERTERS[kind](value) if kind in _CONVERTERS else value
    if domain and not _in_domain(converted, domain):
        problem = "not in enum" if isinstance(domain, list) else "out of range"
        raise ValueError(f"Invalid value {_shown(converted)} ({problem})")
    if kind in ("int", "float"):
        return _number(converted)
    return converted if kind == "bool" else _to_string(converted)


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _BOOLS:
        return _BOOLS[value]
    raise ValueError(f"Cannot convert {_shown(value)} to boolean")


def _number(number: float) -> int | float | str:
    """A number as JSON has it; there is none for infinity, which nodes pass on to the engine as this text."""
    if math.isnan(number):
        raise ValueError(f"Invalid value {_shown(number)} (out of range)")
    if math.isinf(number):
        return _shown(number)
    return int(number) if number == int(number) else number


def _to_string(value: Any) -> str:
    """A node passes any value of a text option on; the cluster sends texts, because some nodes die of anything else."""
    if isinstance(value, str):
        return value
    if value is None or value is UNDEFINED:
        return ""
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else as_text(value)


def _shown(value: Any) -> str:
    return as_text(value)[:200]


_BOOLS: Final = {"true": True, "1": True, "false": False, "0": False}
_CONVERTERS: Final[dict[str, Callable[[Any], Any]]] = {"int": parse_int, "float": parse_float, "bool": _to_bool}

#: Options that are told of at most, and bytes of one that a node added.
_MOST_TOLD: Final = 20
_LARGEST_ADDED: Final = 1000


def _in_domain(value: Any, domain: Any) -> bool:
    """The domains that a node knows: a list of texts, or `integer`, `positive float`, `percent`, `float: 0 <= x <= 1`,
    `integer > 3`, `json`, `string`, `path`. Raises ValueError for any other: a node refuses every value of it."""
    if isinstance(domain, list):
        return any(value == each and isinstance(value, bool) is isinstance(each, bool) for each in domain)
    for pattern, check in _DOMAINS:
        if match := pattern.fullmatch(domain):
            return check(match, value)
    raise ValueError(f"Domain value cannot be handled: '{_shown(domain)}' : '{_shown(value)}'")


def _has_sign(match: re.Match[str], value: Any) -> bool:
    number = _as_number(value)
    if sign := match[1]:
        return number >= 0 if sign == "positive " else number <= 0
    return math.isfinite(number) and (match[2] == "float" or number == int(number))


def _is_between(match: re.Match[str], value: Any) -> bool:
    return _bound(match[1], match[2]) <= _as_number(value) <= _bound(match[1], match[3])


def _is_beyond(match: re.Match[str], value: Any) -> bool:
    number, bound = _as_number(value), _bound(match[1], match[3])
    return {"<": number < bound, "<=": number <= bound, ">": number > bound, ">=": number >= bound}[match[2]]


def _as_number(value: Any) -> float:
    """A value where a number is wanted; no option that nodes have is a text with a domain of numbers."""
    return value if isinstance(value, float) else math.nan


def _bound(kind: str, text: str) -> float:
    return parse_float(text) if kind == "float" else parse_int(text)


_DOMAINS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Any], bool]], ...]] = (
    (re.compile(r"(positive |negative )?(integer|float)"), _has_sign),
    (re.compile(r"percent"), lambda _, value: 0 <= _as_number(value) <= 100),
    (re.compile(r"(float|integer): ([-+.0-9]+) <= x <= ([-+.0-9]+)"), _is_between),
    (re.compile(r"(float|integer) (>=|>|<|<=) ([-+.0-9]+)"), _is_beyond),
    (re.compile(r"json"), lambda _, value: isinstance(value, str) and parses_as_json(value)),
    (re.compile(r"string|path"), lambda _, value: True),
)


def with_split_cluster(options: list[Option], cluster_url: str | None) -> list[Option]:
    """Return the options of a task with `sm-cluster` where it is split and `cluster_url` is given; the caller's own
    value never passes."""
    remaining = [option for option in options if option["name"] != SPLIT_CLUSTER]
    if cluster_url and any(option["name"] == "split" for option in remaining):
        remaining.append({"name": SPLIT_CLUSTER, "value": cluster_url})
    return remaining


def split_cluster(options: list[Option]) -> str:
    """Return the address in `sm-cluster`, without a token, as earlier versions kept one there; empty if not set."""
    value = next((str(option["value"]) for option in options if option["name"] == SPLIT_CLUSTER), "")
    return value.partition("/?")[0]


def with_job_token(options: list[Option], token: str) -> list[Option]:
    """Return the options as a node gets them: `sm-cluster` with the token that the engine sends along."""
    address = split_cluster(options)
    return with_split_cluster(options, f"{address}/?{urlencode({'token': token})}") if address else options
