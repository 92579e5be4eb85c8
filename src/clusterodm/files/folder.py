# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The data folder: its lock, its permissions, and the ports of the process that holds it."""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog

from clusterodm.core.errors import DataFolderError

_PORTS: Final = "ports.json"
_log = structlog.get_logger("folder")


class Ports(msgspec.Struct, frozen=True):
    """The address that the ports for clients bind to, and their numbers."""

    host: str
    ports: list[int]


@contextmanager
def locked_folder(folder: Path, *, shared: bool) -> Iterator[Path]:
    """Create the data folder if it is missing, and lock it: for this process alone, or for all that share its database.
    Raises DataFolderError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep_private(folder)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
    """Save the ports for clients, for health checks. They stay after the end of the process: then nothing answers."""
    draft = folder / f".{_PORTS}.{os.getpid()}"
    draft.write_bytes(msgspec.json.encode(Ports(host, ports)))
    draft.replace(folder / _PORTS)


def noted_ports(folder: Path) -> Ports | None:
    """Return the ports for clients of the last start; None before the first one."""
    try:
        return msgspec.json.decode((folder / _PORTS).read_bytes(), type=Ports)
    except (OSError, msgspec.DecodeError):
        return None


def owner_of(path: Path) -> str:
    """Return the name of the owner of a file or folder, or its number if it has none."""
    number = path.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _keep_private(folder: Path) -> None:
    """Remove the access of others: there are photos, tokens and keys. Raises DataFolderError if that is impossible."""
    status = folder.stat()
    if os.geteuid() == 0 != status.st_uid:
        raise DataFolderError(
            f"the data folder {folder} belongs to {owner_of(folder)}, who could not use what root would write there: "
            f"run this as that user (sudo -u), or give the folder to root (chown -R)"
        )
    if os.geteuid() != status.st_uid and status.st_mode & stat.S_IWOTH:
        raise DataFolderError(
            f"the data folder {folder} belongs to {owner_of(folder)}, and everybody may write into it: "
            f"chmod o-rwx {folder}"
        )
    # deeper files are protected by their folders
    _close_to_others(folder)
    exposed = [path for path in folder.iterdir() if not _close_to_others(path)]
    if exposed:
        _log.warning("readable by others, which only the owner can change", paths=[str(path) for path in exposed[:10]])


def _close_to_others(path: Path) -> bool:
    """Remove all permissions of others; return True if they have none now."""
    try:
        mode = path.stat().st_mode
        if not mode & 0o077 or (path.is_symlink() and not stat.S_ISDIR(mode)):
            return True
        path.chmod(stat.S_IMODE(mode) & ~0o077)
    except FileNotFoundError:  # another replica has just removed it
        return True
    except OSError:
        return False
    return True


def in_use(folder: Path) -> bool:
    """Return True if a process holds a data folder."""
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
