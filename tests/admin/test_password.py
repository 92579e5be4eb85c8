# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The password of operators that is made where none is given, and how a container's health check finds the ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import ssl
import sys
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from clusterodm.admin.password import with_password
from clusterodm.core.errors import ConfigError
from clusterodm.files.folder import note_ports
from clusterodm.settings import Settings, load_settings
from tests.processes import free_port, program


def settings(folder: Path, **fields: object) -> Settings:
    """Settings as in the image."""
    return Settings.model_validate({"data_dir": folder / "data", "admin_pass_file": "password", **fields})


def test_a_password_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    first, password = with_password(settings(tmp_path))
    second, no_password = with_password(settings(tmp_path))
    path = tmp_path / "data" / "password"
    assert re.fullmatch("[0-9a-f]{32}", password)
    assert (no_password, path.read_text()) == ("", f"{password}\n")
    assert {each.admin_pass.get_secret_value() for each in (first, second)} == {password}
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["password"]


def test_processes_that_start_at_once_agree_on_one_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    link = os.link

    def slower(draft: Path, path: Path) -> None:
        path.write_text("hush-theirs\n")
        link(draft, path)

    monkeypatch.setattr(os, "link", slower)
    mine, password = with_password(settings(tmp_path))
    assert (mine.admin_pass.get_secret_value(), password) == ("hush-theirs", "")
    assert [each.name for each in (tmp_path / "data").iterdir()] == ["password"]


@pytest.mark.parametrize(
    "fields",
    [{"admin_pass": SecretStr("hush-given")}, {"admin_pass_file": ""}, {"admin_cli_port": 0, "admin_web_port": 0}],
)
def test_none_is_made_where_one_is_given_or_nobody_needs_it(tmp_path: Path, fields: dict[str, object]) -> None:
    configured = settings(tmp_path, **fields)
    assert with_password(configured) == (configured, "")
    assert not (tmp_path / "data").exists()


def test_a_secret_that_is_mounted_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush-mounted\n")
    loaded, password = with_password(load_settings({"admin_pass_file": str(tmp_path / "secret")}, environ={}))
    assert (loaded.admin_pass.get_secret_value(), password) == ("hush-mounted", "")


@pytest.mark.parametrize(
    ("content", "why"), [(b" \n", "is empty"), (b"\xff\xfe", "it is not a text file"), (None, "directory")]
)
def test_a_file_that_holds_no_password_is_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "data" / "password"
    path.mkdir(parents=True) if content is None else path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        with_password(settings(tmp_path))


async def typed(port: int, password: str) -> bytes:
    """What the shell says to a login."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"LOGIN {password}\r\nQUIT\r\n".encode())
    with contextlib.closing(writer):
        return await asyncio.wait_for(reader.read(), 20)


async def test_it_is_printed_once_and_never_logged_and_outlives_a_restart(tmp_path: Path) -> None:
    shell = free_port()
    doors = {"admin-host": "0.0.0.0", "admin-cli-port": shell, "admin-pass-file": "admin-password"}
    async with program(tmp_path, **doors) as cluster:
        await cluster.start()
        passwords = re.findall("page\\): ([0-9a-f]{32})\n", cluster.log.read_text())
        assert len(passwords) == 1
        assert b"Bye!" in await typed(shell, passwords[0])
        await cluster.end(signal.SIGTERM)
        await cluster.start()
        assert b"Bye!" in await typed(shell, passwords[0])
        assert b"Bye!" not in await typed(shell, "hush-wrong")
        assert cluster.log.read_text().count(passwords[0]) == 1
        assert passwords[0] not in (tmp_path / "data" / "logs" / "clusterodm.log").read_text()


async def healthy(data: Path) -> tuple[int, str]:
    """What `clusterodm health` ends with and says."""
    run = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clusterodm",
        "health",
        env=os.environ | {"CLUSTERODM_DATA_DIR": str(data)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await run.communicate()
    return run.returncode or 0, output.decode().strip()


async def test_health_follows_the_port_and_tells_who_answers(tmp_path: Path) -> None:
    assert await healthy(tmp_path) == (1, f"no cluster has been started on {tmp_path}")
    async with program(tmp_path) as cluster:
        await cluster.start()
        assert await healthy(tmp_path / "data") == (0, f"127.0.0.1:{cluster.port} answers with 200")
        await cluster.end()
        assert await healthy(tmp_path / "data") == (1, f"127.0.0.1:{cluster.port} does not answer")
        async with program(tmp_path, host="0.0.0.0") as another:
            await another.start()
            assert await healthy(tmp_path / "data") == (0, f"127.0.0.1:{another.port} answers with 200")


async def test_health_speaks_tls_where_the_port_does(tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("maps.example").configure_cert(context)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        note_ports(tmp_path, "", [port])
        assert await healthy(tmp_path) == (0, f"127.0.0.1:{port} answers with 200")
