# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The id that a data folder shares with its database, so that neither is used with another one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

import msgspec

from clusterodm.core.errors import DataFolderError

FILE: Final = "identity.json"


class Identity(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The identity file of a data folder."""

    id: str
    #: The id that its database may have instead, while both are given a new one; None: no other. Empty: it has none.
    replaces: str | None = None
    #: When the copy was made that this folder is, or was restored from; 0: no copy, or its uploads know already.
    copied_at: float = 0
    #: Of a copy: True if it has held files, consoles and results.
    files: bool = True

    def matches(self, other: str) -> bool:
        """True if a database with this id (empty: none) is the one of the folder."""
        return other in (self.id, self.replaces)


def new_id() -> str:
    """Return a new id."""
    return secrets.token_hex(8)


def read_identity(folder: Path) -> Identity | None:
    """Return the identity of a folder; None if it is new, or older than identities. Raises DataFolderError."""
    path = folder / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise DataFolderError(f"{path} cannot be read ({error}): restore it, or start once with --adopt") from None


def write_identity(folder: Path, identity: Identity) -> None:
    """Replace the identity of a folder; complete and on disk when this returns."""
    part = folder / f"{FILE}.part"
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(identity) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / FILE)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flush created and renamed entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
