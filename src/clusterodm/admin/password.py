# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The operators' password: the setting, or the content of a file that is created with a random one if missing."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from clusterodm.core.errors import ConfigError
from clusterodm.settings import Settings


def with_password(settings: Settings) -> tuple[Settings, str]:
    """Settings with the password of `--admin-pass-file`, when that is asked for; and the password if it was made now:
    it is told once, and never logged. Raises ConfigError."""
    file = settings.admin_pass_file
    if (
        file is None
        or settings.admin_pass.get_secret_value()
        or not (settings.admin_cli_port or settings.admin_web_port)
    ):
        return settings, ""
    path = settings.data_dir / file
    try:
        made = "" if path.exists() else _make(settings.data_dir, path)
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"--admin-pass-file {path} cannot be used by user {os.getuid()}: {reason}") from None
    if not password:
        raise ConfigError(f"--admin-pass-file {path} is empty; write a password into it, or remove it to have one made")
    return settings.model_copy(update={"admin_pass": SecretStr(password)}), made


def _make(folder: Path, path: Path) -> str:
    """Make a password that this user alone can read; empty when another process was faster."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = secrets.token_hex(16)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "w") as opened:
            opened.write(f"{password}\n")
            opened.flush()
            os.fsync(file)
        os.link(draft, path)  # whole, or not at all, and never over another one
    except FileExistsError:
        return ""
    finally:
        draft.unlink()
    return password
