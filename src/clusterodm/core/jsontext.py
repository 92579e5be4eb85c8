# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Decode hand-written JSON files, with errors that name the line."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from clusterodm.core.errors import ConfigError

_BOM: Final = b"\xef\xbb\xbf"
_MALFORMED: Final = re.compile(r"JSON is malformed: (.*) \(byte (\d+)\)")


def decode_file(content: bytes, name: str, kind: Any = Any, *, strict: bool = True) -> Any:
    """Decode the content of a JSON file as `kind`. Raises ConfigError that begins with `name`."""
    text = content.removeprefix(_BOM)
    try:
        return msgspec.json.decode(text, type=kind, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{name} is not JSON: {_fault(text, error)}") from None


def _fault(text: bytes, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    malformed = _MALFORMED.fullmatch(str(error))
    if malformed is None:
        return f"line {_line(text.rstrip())}: the file ends too early"
    fault, at = malformed.groups()
    before = text[: int(at)]
    if fault.startswith("trailing comma"):  # the comma may stand lines before the brace that makes it one too many
        before = before[: before.rindex(b",")]
    return f"line {_line(before)}: {fault}"


def _line(before: bytes) -> int:
    return before.count(b"\n") + 1
