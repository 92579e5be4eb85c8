# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""JavaScript's parsing and formatting of values: nodes check options with it, so the same text must pass here."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, Final

#: What JavaScript skips before a number.
_SPACE: Final = r"[\t-\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]*"
_FLOAT: Final = re.compile(_SPACE + r"([+-]?)(Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")
_INT: Final = re.compile(_SPACE + r"([+-]?)(?:(0[xX])([0-9a-fA-F]*)|([0-9]+))")
#: From which size on a number is written with an exponent.
_LARGE: Final = 1e21
_SMALL: Final = 1e-6
#: Digits beyond which a whole number is infinite.
_MOST_DIGITS: Final = 400


class Undefined:
    """The value of a missing key."""


UNDEFINED: Final = Undefined()


def parse_float(value: Any) -> float:
    """`Number.parseFloat`: return the number that a text begins with, or NaN."""
    match = _FLOAT.match(as_text(value))
    if match is None:
        return math.nan
    number = math.inf if match[2] == "Infinity" else float(match[2])
    return -number if match[1] == "-" else number


def parse_int(value: Any) -> float:
    """`Number.parseInt`: return the integer that a text begins with, or NaN."""
    match = _INT.match(as_text(value))
    digits, base = (match[3], 16) if match and match[2] else (match[4] if match else "", 10)
    if not match or not digits:
        return math.nan
    digits = digits.lstrip("0") or "0"
    try:
        number = float(int(digits, base)) if len(digits) < _MOST_DIGITS else math.inf
    except OverflowError:
        number = math.inf
    return -number if match[1] == "-" else number


def as_text(value: Any) -> str:
    """Return `String(value)` of a value decoded from JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Undefined):
        return "undefined"
    if isinstance(value, list):
        return ",".join("" if item is None else as_text(item) for item in value)
    if isinstance(value, dict):
        return "[object Object]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number_text(value)
    return {True: "true", False: "false"}.get(value, "null")


def _number_text(value: float) -> str:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "0"
    digits = Decimal(repr(number)).normalize()
    if _SMALL <= abs(number) < _LARGE:
        return format(digits, "f")
    mantissa, _, exponent = format(digits, "e").partition("e")
    return f"{mantissa}e{exponent}"


def parses_as_json(text: str) -> bool:
    """Return True if `JSON.parse` accepts a text."""
    try:
        json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
