# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The operators' password: a setting, or a file that is created with a random password if missing."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from clusterodm.core.errors import ConfigError
from clusterodm.settings import Settings


def with_password(settings: Settings) -> tuple[Settings, str]:
    """Return settings with the password of `--admin-pass-file`, if set; and the password if it was generated now, to be
    shown once and never logged. Raises ConfigError."""
    file = settings.admin_pass_file
    if (
        file is None
        or settings.admin_pass.get_secret_value()
        or not (settings.admin_cli_port or settings.admin_web_port)
    ):
        return settings, ""
    path = settings.data_dir / file
    try:
        generated = "" if path.exists() else _generate(settings.data_dir, path)
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise ConfigError(f"--admin-pass-file {path} cannot be used by user {os.getuid()}: {reason}") from None
    if not password:
        raise ConfigError(f"--admin-pass-file {path} is empty; write a password into it, or remove it to generate one")
    return settings.model_copy(update={"admin_pass": SecretStr(password)}), generated


def _generate(folder: Path, path: Path) -> str:
    """Generate a password that only this user can read; return an empty one if another process was faster."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = secrets.token_hex(16)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "w") as opened:
            opened.write(f"{password}\n")
            opened.flush()
            os.fsync(file)
        os.link(draft, path)  # atomic, and never over another one
    except FileExistsError:
        return ""
    finally:
        draft.unlink()
    return password
