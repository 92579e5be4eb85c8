# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files of a task: accepted ones against those held, and the number of images a node counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

#: Files that an error names before it only counts them.
_NAMED: Final = 10
#: What a node moves out of its folder of images, or deletes there, before it counts (its own expressions).
_NOT_COUNTED: Final = re.compile(r"\.txt$|^align\.(las|laz|tif)$|\.zip$", re.IGNORECASE)


class HeldFile(msgspec.Struct, frozen=True):
    """One file of a task."""

    name: str
    size: int


class Manifest(msgspec.Struct, frozen=True):
    """What was accepted of a task, and where it came from if it was not uploaded."""

    files: list[HeldFile]
    zipurl: str = ""


def describe_losses(accepted: Iterable[HeldFile], held: Iterable[HeldFile]) -> str:
    """Name the accepted files that are not held, or not whole; empty when there are none."""
    sizes = {file.name: file.size for file in held}
    return _named([_loss(file, sizes.get(file.name)) for file in accepted if sizes.get(file.name) != file.size])


def describe_none_held(accepted: Sequence[HeldFile]) -> str:
    """Name what was accepted where nothing of it is held."""
    count = f"{len(accepted)} files are" if len(accepted) != 1 else "file is"
    return f"its {count} not held here: {_named([file.name for file in accepted])}"


def _named(files: list[str]) -> str:
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(files[:_NAMED]) + more


def _loss(file: HeldFile, size: int | None) -> str:
    return f"{file.name} (missing)" if size is None else f"{file.name} ({size} of {file.size} bytes)"


def counted_images(names: Iterable[str], seeded: Iterable[str] = ()) -> int:
    """Return a node's `imagesCount` for these files, once it has looked at them. `seeded`: paths in a `seed.zip`, which
    a node unpacks into the folder of the project, images included."""
    unpacked = {path.split("/")[1] for path in seeded if path.startswith("images/") and path != "images/"}
    return sum(not _NOT_COUNTED.search(name) for name in {*names, *unpacked})
