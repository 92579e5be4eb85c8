# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The data folder: who may work on it, and where who does answers."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from clusterodm.core.errors import DataFolderError

_PORTS: Final = "ports.json"


class Ports(msgspec.Struct, frozen=True):
    """The address that the ports for clients are bound to, and their numbers."""

    host: str
    ports: list[int]


@contextmanager
def locked_folder(folder: Path, *, shared: bool) -> Iterator[Path]:
    """The data folder, made when it is missing and held by this process alone, or with others that share its database.
    Raises DataFolderError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DataFolderError(f"the data folder {folder} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode(errors="replace").strip() or "?"
            raise DataFolderError(
                f"the data folder {folder.resolve()} is used by another clusterodm (process {holder}); "
                "stop it or choose another --data-dir"
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield folder
    finally:
        os.close(file)


def note_ports(folder: Path, host: str, ports: list[int]) -> None:
    """Keep where clients are answered, for who looks after the process. It stays: what is not there does not answer."""
    draft = folder / f".{_PORTS}.{os.getpid()}"
    draft.write_bytes(msgspec.json.encode(Ports(host, ports)))
    draft.replace(folder / _PORTS)


def noted_ports(folder: Path) -> Ports | None:
    """Where clients are answered, or were; None before the first start."""
    try:
        return msgspec.json.decode((folder / _PORTS).read_bytes(), type=Ports)
    except (OSError, msgspec.DecodeError):
        return None


def in_use(folder: Path) -> bool:
    """Whether a process holds a data folder."""
    try:
        file = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
