# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes as processes of this machine: a provider that lives outside of ClusterODM and is found by its entry point."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from pathlib import Path

from clusterodm.core.errors import Rejected
from clusterodm.providers import Provider, ProviderMachine, Status
from clusterodm.providers.config import Common, read_entry
from clusterodm.providers.node import node_config


class Config(Common, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    command: tuple[str, ...]  # starts a node; the path of its configuration file is added
    folder: str


class Processes(Provider):
    def __init__(self, entry, session):
        super().__init__(read_entry(Config, entry))
        self._folder = Path(self.config.folder)

    def locations(self):
        return ("here",)

    def document(self, name, offering, *, token):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        return json.dumps(node_config(self.config, port=port, token=token, max_images=offering.max_images, slots=1))

    async def check(self):
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def create(self, spec):
        if (made := await self.get(spec.name, "here")) is not None:
            return made
        config = self._folder / f"{spec.name}.json"  # a node reads no other file
        config.touch(mode=0o600)
        config.write_text(spec.document)
        try:
            node = await asyncio.create_subprocess_exec(*self.config.command, config, start_new_session=True)
        except OSError as error:
            raise Rejected(f"{self.config.command[0]}: {error.strerror}") from None
        said = {"pid": node.pid, "port": json.loads(spec.document)["port"], "cluster": spec.cluster}
        (self._folder / f"{spec.name}.machine").write_text(json.dumps(said))
        return self._machine(spec.name, said["port"])

    async def get(self, machine_id, location):
        said = self._read(machine_id)
        return said and self._machine(machine_id, said["port"])

    async def list_machines(self, cluster):
        found = {path.stem: self._read(path.stem) for path in self._folder.glob("*.machine")}
        return [self._machine(name, said["port"]) for name, said in found.items() if said["cluster"] == cluster]

    async def delete(self, machine):
        if (said := self._read(machine.id)) is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.killpg(said["pid"], signal.SIGTERM)
            for kind in ("machine", "json"):
                (self._folder / f"{machine.id}.{kind}").unlink(missing_ok=True)

    def _read(self, name):
        path = self._folder / f"{name}.machine"
        return json.loads(path.read_text()) if path.exists() else None

    def _machine(self, name, port):
        return ProviderMachine(
            id=name, name=name, status=Status.RUNNING, location="here", address="127.0.0.1", port=port
        )
