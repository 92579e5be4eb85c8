# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Signatures of what a package exports, as they stand in docs/plugins.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, get_type_hints

import msgspec

#: Classes whose members have a page of their own.
OPAQUE = {"Settings": "settings.md"}


class _Text:
    """Shows itself without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def signature(name: str, value: Any) -> str:
    """Return the lines for one exported name."""
    if isinstance(value, type):
        return "\n".join(_class(name, value))
    if callable(value):
        return _function(name, value)
    return f"{name} = {value!r}".replace("'", '"')


def _class(name: str, cls: type) -> Iterator[str]:
    bases = [base.__name__ for base in cls.__bases__ if base.__name__ not in ("object", "Struct", "BaseModel")]
    members = [] if name in OPAQUE else list(_members(cls))
    head = f"class {name}({', '.join(bases)})" if bases else f"class {name}"
    yield f"{head}:" if members else f"{head}: ..."
    yield from (f"    {line}" for line in members)


def _members(cls: type) -> Iterator[str]:
    if issubclass(cls, Enum):
        yield from (f'{member.name} = "{member.value}"' for member in cls)
        return
    yield from _attributes(cls)
    record = is_dataclass(cls) or issubclass(cls, msgspec.Struct)
    for name, value in vars(cls).items():
        if isinstance(value, property) and not name.startswith("_"):
            yield f"{name}: {_shown(get_type_hints(value.fget)['return'])}  # property"
        elif (
            inspect.isfunction(value)
            and value.__name__ == name
            and (not name.startswith("_") or (name in _SPECIAL and not record))
        ):
            yield _function(name, value)


_SPECIAL = ("__init__", "__call__")


def _attributes(cls: type) -> Iterator[str]:
    hints, defaults = get_type_hints(cls), dict(_defaults(cls))
    for name in inspect.get_annotations(cls):
        if not name.startswith("_"):
            default = f" = {defaults[name]!r}".replace("'", '"') if name in defaults else ""
            yield f"{name}: {_shown(hints[name])}{default}"


def _defaults(cls: type) -> Iterator[tuple[str, Any]]:
    if issubclass(cls, msgspec.Struct):
        for field in msgspec.structs.fields(cls):
            if field.default is not msgspec.NODEFAULT:
                plain = isinstance(field.default, str | int | float | None)
                yield field.name, field.default if plain else _Text(f"{type(field.default).__name__}()")
            elif field.default_factory is not msgspec.NODEFAULT:
                yield field.name, field.default_factory()
    elif is_dataclass(cls):
        defaults = ((field.name, field.default) for field in fields(cls) if field.default is not MISSING)
        yield from ((name, _Text("...") if callable(default) else default) for name, default in defaults)
    else:
        yield from vars(cls).items()


def _function(name: str, function: Any) -> str:
    plain = inspect.signature(function)
    hints = {each: _Text(_shown(hint)) for each, hint in get_type_hints(function).items()}
    parameters = [each.replace(annotation=hints.get(each.name, each.empty)) for each in plain.parameters.values()]
    text = str(plain.replace(parameters=parameters, return_annotation=hints.get("return", plain.empty)))
    mark = "async " if inspect.iscoroutinefunction(function) else ""
    kind = "  # abstract" if getattr(function, "__isabstractmethod__", False) else ""
    shown = re.sub(r"<built-in function (\w+)>", r"time.\1", text).replace("'", '"')
    return f"{mark}def {name}{shown}{kind}"


def _shown(hint: Any) -> str:
    """Return a type as it is written in source."""
    text = inspect.formatannotation(hint).replace("NoneType", "None").replace("'", '"')
    text = re.sub(r"Optional\[([^\]]+)\]", r"\1 | None", text.replace("~", ""))  # as Python before 3.14 shows them
    return re.sub(r"\b(?:[a-z_]\w*\.)+(\w+)", r"\1", text)
