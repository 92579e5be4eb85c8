# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What signals mean to a real process, alone and with workers."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from clusterodm.devnode import Knobs, running_devnode
from tests.postgres import Server
from tests.processes import Program, free_port, program
from tests.support import eventually

#: An orderly end would wait for as long as that.
PATIENT = {"shutdown-delay": 0, "shutdown-grace": 100}
AT_ONCE = 10.0


def lines(running: Program, text: str) -> list[dict[str, Any]]:
    """Lines of the log that have this text."""
    return [json.loads(line) for line in running.log.read_text().splitlines() if text in line]


@asynccontextmanager
async def sending(running: Program, uuid: str) -> AsyncIterator[asyncio.StreamReader]:
    """An upload in the middle of its body, of which something is on the disk."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    head = f"POST /task/new/upload/{uuid} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="late.jpg"\r\n\r\n'
    writer.write(f"{head}Content-Length: 9000000\r\n\r\n".encode() + part + b"x" * 4_000_000)
    await writer.drain()
    parts = Path(str(running.settings["data-dir"])) / "spool" / uuid / "parts"
    await eventually(lambda: parts.is_dir() and any(parts.iterdir()))
    try:
        yield reader
    finally:
        writer.close()


async def refuses(running: Program) -> bool:
    """True if nobody listens any more."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
    except OSError:
        return True
    writer.close()
    return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("delay", [0, 100])
async def test_a_second_signal_ends_at_once_and_everything_is_kept(
    tmp_path: Path, how: signal.Signals, delay: int
) -> None:
    async with (
        running_devnode(Knobs(seconds=0.0), port=0) as (_, node),
        program(tmp_path, **PATIENT | {"shutdown-delay": delay}) as running,
    ):
        api = await running.start()
        accepted = await api.create()
        open_upload = await api.init()
        assert await api.upload(open_upload, a__jpg=b"acknowledged") == {"success": True}
        async with sending(running, open_upload) as reader:
            running.send(how)
            await eventually(lambda: lines(running, '"stopping"'))
            if not delay:
                await eventually(lambda: refuses(running))
            assert running.runs()
            started_at = time.monotonic()
            assert await running.end(how) == 0
            assert time.monotonic() - started_at < AT_ONCE
            with suppress(ConnectionError):
                assert await reader.read() == b""  # no answer, which a client could take for an end
        assert lines(running, "stopping at once")
        running.settings["node"] = f"127.0.0.1:{node}"
        await running.start()
        await api.ends(accepted)
        await api.commit(open_upload)
        info = await api.ends(open_upload)
        assert info["imagesCount"] == 1


class Certificates:
    """The files of a certificate that are renewed by a test."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"

    def issue(self) -> None:
        """Write a new one."""
        certificate = self.authority.issue_cert("127.0.0.1")
        certificate.cert_chain_pems[0].write_to_path(self.cert)
        certificate.private_key_pem.write_to_path(self.key)


def serial(port: int) -> str:
    """The serial number of the certificate that a port shows."""
    plain = ssl.create_default_context()
    plain.check_hostname, plain.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as raw, plain.wrap_socket(raw) as secure:
        shown = secure.getpeercert(binary_form=True)
    return (shown or b"").hex()


async def test_sighup_reads_certificate_and_tokens_again(tmp_path: Path) -> None:
    certificates, tokens, port = Certificates(tmp_path), tmp_path / "tokens.toml", free_port()
    certificates.issue()
    tokens.write_text('[alice]\ntoken = "hush-alice-1"\n')
    tls = {"secure-port": port, "ssl-cert": certificates.cert, "ssl-key": certificates.key}
    async with program(tmp_path, **tls, **{"cloud-provider": "tokens", "tokens-file": tokens}) as running:
        running.api.query = {"token": "hush-alice-1"}
        await running.start()
        first = await asyncio.to_thread(serial, port)
        certificates.issue()
        tokens.write_text('[alice]\ntoken = "hush-alice-2"\n')
        running.send(signal.SIGHUP)
        await eventually(lambda: lines(running, "tokens file loaded"))
        assert lines(running, "SIGHUP: reloading files")
        assert lines(running, "certificate renewed")
        second = await asyncio.to_thread(serial, port)
        assert second != first
        assert (await running.api.raw("GET", "/task/list"))[0] == 401
        running.api.query = {"token": "hush-alice-2"}
        assert await running.api.get("/task/list") == []
        certificates.cert.write_text("no certificate")
        tokens.write_text("no tokens")
        running.send(signal.SIGHUP)
        await eventually(lambda: lines(running, "keeping the current tokens"))
        assert lines(running, "renewed certificate cannot be used, keeping the old one")
        assert await asyncio.to_thread(serial, port) == second
        assert await running.api.get("/task/list") == []
        assert await running.end(signal.SIGTERM) == 0
    assert "hush-" not in running.log.read_text()


async def test_every_worker_hears_of_a_sighup_and_a_ctrl_c_counts_once(tmp_path: Path, postgres: Server) -> None:
    certificates, port = Certificates(tmp_path), free_port()
    certificates.issue()
    tls = {"secure-port": port, "ssl-cert": certificates.cert, "ssl-key": certificates.key}
    async with program(tmp_path, workers=2, **tls, **PATIENT) as several:
        several.environ |= {"CLUSTERODM_DATABASE_URL": postgres.new_database()}
        api = await several.start()
        await eventually(lambda: len(lines(several, '"ready"')) == 2)
        certificates.issue()
        several.send(signal.SIGHUP)
        await eventually(lambda: len(lines(several, "certificate renewed")) == 2)
        assert [line["workers"] for line in lines(several, "passed on to workers")] == [2]
        uuid = await api.init()
        async with sending(several, uuid):
            children = psutil.Process(several.pid).children()
            for pid in [several.pid, *(each.pid for each in children)]:  # as a terminal and a service manager do it
                os.kill(pid, signal.SIGINT)
                if pid != several.pid:
                    os.kill(pid, signal.SIGTERM)
            await eventually(lambda: len(lines(several, '"stopping"')) == 2)
            await eventually(lambda: refuses(several))
            assert several.runs()
            assert not lines(several, "stopping at once")
            started_at = time.monotonic()
            assert await several.end(signal.SIGINT) == 0
            assert time.monotonic() - started_at < AT_ONCE
        assert not any(each.is_running() for each in children)


async def test_a_cluster_ends_with_its_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    async with program(tmp_path, **{"log-file": tmp_path / "file.log"}) as running:
        arguments = [text for key, value in running.settings.items() for text in (f"--{key}", str(value))]
        process = await asyncio.create_subprocess_exec(
            "setsid", "--ctty", "--wait", sys.executable, "-m", "clusterodm", *arguments,
            stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        asyncio.get_running_loop().add_reader(ours, lambda: os.read(ours, 65536))
        await eventually(running.answers)
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert "stopping" in (tmp_path / "file.log").read_text()
