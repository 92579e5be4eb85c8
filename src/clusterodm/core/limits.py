# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Limits of a token, as its authenticator gives them, and their effect on options and uploads."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from clusterodm.core.errors import BadRequest
from clusterodm.core.options import Option, check_options

#: Hidden as soon as there are any limits: how many cores a task takes is then not its owner's to say.
_HIDDEN: Final = "max-concurrency"
#: Numbers that are kept as text.
_INFINITE: Final = ("Infinity", "-Infinity")


class Between(msgspec.Struct, frozen=True):
    """A range that numbers, also as text, are clamped to."""

    min: float | str | None = None
    max: float | str | None = None
    #: A value that means "no limit" (such as 0) and becomes the maximum.
    max_if_equal_to: float | str | None = None


class OptionLimit(msgspec.Struct, frozen=True):
    """The limits of one option."""

    value: Any = msgspec.UNSET
    domain: Any = msgspec.UNSET
    #: It is not shown and not taken.
    remove: bool = False
    #: Every task has it, with `value` unless its owner gave one.
    assure: bool = False
    between: Between | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """All limits of one token. None: no limit."""

    max_images: int | None = msgspec.field(default=None, name="maxImages")
    #: Tasks on nodes at a time; 0: none is ever taken.
    max_concurrent_tasks: int | None = msgspec.field(default=None, name="maxConcurrentTasks")
    options: dict[str, OptionLimit] = {}

    @property
    def any(self) -> bool:
        """True if anything is limited."""
        return self != Limits()


def shown_options(described: list[Option], limits: Limits) -> list[Option]:
    """Return `/options` for a token: without hidden options, with values and domains replaced."""
    if not limits.any:
        return described
    return [_shown(option, limits.options.get(option["name"])) for option in described if _is_shown(option, limits)]


def _is_shown(option: Option, limits: Limits) -> bool:
    limit = limits.options.get(option["name"])
    return option["name"] != _HIDDEN and not (limit is not None and limit.remove)


def _shown(option: Option, limit: OptionLimit | None) -> Option:
    if limit is None:
        return option
    replaced = {} if limit.value is msgspec.UNSET else {"value": _as_text(limit.value)}
    replaced |= {} if limit.domain is msgspec.UNSET else {"domain": limit.domain}
    return {**option, **replaced}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def limited_options(options: list[Option], described: list[Option], limits: Limits) -> list[Option]:
    """A task's options (already checked against `described`) within the limits. Raises BadRequest for a value that the
    token's own domain does not allow."""
    if not limits.any:
        return options
    allowed = shown_options(described, limits)
    names = {option["name"] for option in allowed}
    checked = check_options([option for option in options if option["name"] in names], allowed)
    have = {option["name"] for option in checked}
    assured = [
        {"name": name, "value": limit.value}
        for name, limit in limits.options.items()
        if limit.assure and not limit.remove and name not in have and limit.value is not msgspec.UNSET
    ]
    checked += check_options(assured, described)
    return [_clamped(option, limits.options.get(option["name"])) for option in checked]


def _clamped(option: Option, limit: OptionLimit | None) -> Option:
    number = _number(option["value"])
    if limit is None or limit.between is None or number is None:
        return option
    low, high = _number(limit.between.min), _number(limit.between.max)
    unlimited = _number(limit.between.max_if_equal_to)
    if high is not None and unlimited is not None and number == unlimited:
        number = high
    number = number if low is None else max(low, number)
    number = number if high is None else min(high, number)
    return {**option, "value": _like(number, option["value"])}


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) or value in _INFINITE else None


def _like(number: float, original: Any) -> Any:
    if math.isinf(number):
        return original
    whole: Any = int(number) if number == int(number) else number
    return str(whole) if isinstance(original, str) and original not in _INFINITE else whole


def check_images(count: int, limits: Limits) -> None:
    """Raise BadRequest if a task has more images than its token allows."""
    if limits.max_images is not None and count > limits.max_images:
        raise BadRequest(f"Too many images: this token allows at most {limits.max_images} for one task", no_retry=True)


def check_tasks_allowed(limits: Limits) -> None:
    """Raise BadRequest for a token that allows no tasks."""
    if limits.max_concurrent_tasks == 0:
        raise BadRequest("This token allows no tasks", no_retry=True)
