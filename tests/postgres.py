# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real PostgreSQL, started by the tests that need one; each gets a database of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.needs import find
from tests.processes import free_port


def driver_url(url: str) -> str:
    """Return SQLAlchemy's URL of a database as the driver and PostgreSQL's programs take it."""
    return url.replace("+asyncpg", "").partition("?")[0]


class Server:
    """A running server on loopback."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def url(self, database: str = "postgres") -> str:
        """The URL of a database."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a fresh database."""
        name = f"t{uuid.uuid4().hex}"
        self._psql(f"CREATE DATABASE {name}")
        return self.url(name)

    def _psql(self, statement: str) -> None:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        subprocess.run(["psql", *where, "-qc", statement, "postgres"], check=True, capture_output=True)

    def start(self) -> None:
        """Start it."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -c unix_socket_directories={self.folder}"
        self.control("start", "-l", str(self.folder / "server.log"), "-o", options)

    def control(self, verb: str, *arguments: str) -> None:
        """pg_ctl."""
        run("pg_ctl", "-D", str(self.folder / "data"), "-w", verb, *arguments)


def run(program: str, *arguments: str) -> None:
    """Run a program of the server as a user that is not root, which the server refuses to be."""
    initdb = find("initdb")
    assert initdb is not None
    drop = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        drop = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    subprocess.run(
        [*drop, str(Path(initdb).with_name(program)), *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/"
    )


@contextmanager
def running_postgres() -> Iterator[Server]:
    """A server while the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="clusterodm-postgres-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        locale = ["-E", "UTF8", "--locale=C", "-A", "trust", "-U", "postgres", "--no-sync"]
        run("initdb", "-D", str(folder / "data"), *locale)
        server = Server(folder, free_port())
        server.start()
        try:
            yield server
        finally:
            server.control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
