# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forecast the memory of a task from similar ones: number and size of images, relevant options."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec

#: Options that make a task take much more or less memory; the others do not tell tasks apart.
MATTER: Final = (
    "dem-resolution",
    "depthmap-resolution",
    "dsm",
    "dtm",
    "fast-orthophoto",
    "feature-quality",
    "max-concurrency",
    "mesh-octree-depth",
    "mesh-size",
    "min-num-features",
    "orthophoto-resolution",
    "pc-quality",
    "split",
)
#: Tasks count as alike when their images are as large, and as many, within these factors.
_LARGE: Final = 1.5
_MANY: Final = 4.0
#: How many of them speak.
_NEAREST: Final = 5
#: What a task took that failed for want of memory: more than there was.
_MORE: Final = 1.25


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """What one task used. Memory in bytes; megapixels of one image, 0: unknown."""

    at: float
    images: int
    megapixels: float
    options: str
    memory: int
    #: Whether it came to its end with that.
    enough: bool


class Forecast(msgspec.Struct, frozen=True):
    """The expected bytes of a task, and the reason."""

    memory: int
    why: str


def options_key(options: Iterable[dict[str, Any]]) -> str:
    """Return the relevant options as a canonical text."""
    values = {option["name"]: option.get("value") for option in options if option.get("name") in MATTER}
    return " ".join(f"{name}={values[name]}" for name in sorted(values))[:500]


def forecast(images: int, megapixels: float, options: str, peaks: Iterable[Peak]) -> Forecast | None:
    """What a task will take: the most that the tasks most like it took, scaled to its images; None when none was."""
    alike = [peak for peak in peaks if images and peak.options == options and _alike(peak, images, megapixels)]
    if not alike:
        return None
    alike.sort(key=lambda peak: (abs(math.log(peak.images / images)), -peak.at))
    needs = [(_needed(peak, images), peak) for peak in alike[:_NEAREST]]
    memory, peak = max(needs, key=lambda need: need[0])
    took = "took" if peak.enough else "was not enough:"
    return Forecast(memory, f"a task of {peak.images} images like it {took} {peak.memory / 1e9:.1f} GB")


def _alike(peak: Peak, images: int, megapixels: float) -> bool:
    if not 1 / _MANY <= peak.images / images <= _MANY:
        return False
    unknown = not peak.megapixels or not megapixels
    return unknown or 1 / _LARGE <= peak.megapixels / megapixels <= _LARGE


def _needed(peak: Peak, images: int) -> int:
    return int(peak.memory * images / peak.images * (1.0 if peak.enough else _MORE))
