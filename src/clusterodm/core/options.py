# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Task options: read, checked and converted as a node does it, and the `sm-cluster` option that is ours to set."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from clusterodm.core.errors import BadRequest

Option = dict[str, Any]

#: The keys of one entry of `/options`; one more is a TypeError in PyODM.
KEYS: Final = ("name", "type", "value", "domain", "help")


def exact(described: list[Option]) -> list[Option]:
    """Each description with exactly the keys that clients take."""
    return [{key: option.get(key, "") for key in KEYS} for option in described if option.get("name")]


def parse_options(text: str) -> list[Option]:
    """Read the client's `options` field. No text and anything but a list count as none, as on a node."""
    if not text:
        return []
    try:
        given = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"Invalid options: {error}") from None
    if not isinstance(given, list):
        return []
    return [entry for entry in given if isinstance(entry, dict) and isinstance(entry.get("name"), str)]


def check_options(given: list[Option], described: list[Option]) -> list[Option]:
    """Keep known options with their values converted; raise BadRequest with the node's own form of error list."""
    by_name = {option["name"]: option for option in described}
    kept: list[Option] = []
    errors: list[dict[str, str]] = []
    for entry in given:
        option = by_name.get(entry["name"])
        if option is None:
            continue
        try:
            kept.append({"name": entry["name"], "value": _convert(entry.get("value"), option)})
        except ValueError as error:
            errors.append({"name": entry["name"], "error": str(error)})
    if errors:
        raise BadRequest(msgspec.json.encode(errors).decode())
    return kept


def _convert(value: Any, option: Option) -> Any:
    converter: Callable[[Any], Any] = _CONVERTERS.get(option.get("type", "string"), _to_string)
    converted = converter(value)
    domain = option.get("domain", "")
    if isinstance(domain, list):
        if converted not in domain:
            raise ValueError(f"Invalid value {converted} (not in enum)")
    elif isinstance(converted, int | float) and not _in_domain(converted, str(domain)):
        raise ValueError(f"Invalid value {value} (out of range)")
    return converted


def _to_int(value: Any) -> int:
    try:
        return int(_to_float(value))
    except ValueError:
        raise _refusal(value, "integer") from None


def _to_float(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _refusal(value, "float")
    return int(number) if number == int(number) else number


def _to_bool(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "1", "false", "0"):
        raise _refusal(value, "boolean")
    return text in ("true", "1")


def _to_string(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _refusal(value: Any, kind: str) -> ValueError:
    return ValueError(f"Cannot convert {str(value)[:200]} to {kind}")


_CONVERTERS: Final[dict[str, Callable[[Any], Any]]] = {
    "int": _to_int,
    "float": _to_float,
    "bool": _to_bool,
    "enum": _to_string,
    "string": _to_string,
}

_RANGE: Final = re.compile(r"([-+.\d]+)\s*(<=?)\s*\w+(?:\s*(<=?)\s*([-+.\d]+))?")
_BOUND: Final = re.compile(r"(<=|>=|<|>)\s*([-+.\d]+)\s*$")


def _in_domain(number: float, domain: str) -> bool:
    """`positive integer`, `negative float`, `float > 0.0`, `integer: 1 <= x <= 14`; any other text allows all."""
    if domain.startswith("positive"):
        return number >= 0
    if domain.startswith("negative"):
        return number <= 0
    if found := _RANGE.search(domain):
        low, low_sign, high_sign, high = found.groups()
        above = _compare(float(low), low_sign, number)
        return above and (high is None or _compare(number, high_sign, float(high)))
    if found := _BOUND.search(domain):
        return _compare(number, found[1], float(found[2]))
    return True


def _compare(left: float, sign: str, right: float) -> bool:
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[sign]


def with_split_cluster(options: list[Option], cluster_url: str | None) -> list[Option]:
    """Options for a node: `sm-cluster` is ours to say. It is set where the task is split and `cluster_url` is given;
    the caller's own value never passes."""
    kept = [option for option in options if option["name"] != "sm-cluster"]
    if cluster_url and any(option["name"] == "split" for option in kept):
        kept.append({"name": "sm-cluster", "value": cluster_url})
    return kept
