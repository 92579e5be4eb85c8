# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes as processes of this machine: a provider in a package of its own, found by its entry point."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from pathlib import Path

from clusterodm.providers import (
    MachineStatus,
    Provider,
    ProviderConfig,
    ProviderMachine,
    Rejected,
    node_config,
    read_entry,
)


class Config(ProviderConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    command: tuple[str, ...]  # starts a node; the path of its configuration file is appended
    folder: str


class Processes(Provider):
    api_version = "1.0"

    def __init__(self, entry, context):
        super().__init__(read_entry(Config, entry))
        self._folder = Path(self.config.folder)

    def locations(self):
        return ("localhost",)

    def bootstrap(self, name, offering, *, token):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        return json.dumps(node_config(self.config, port=port, token=token, max_images=offering.max_images, slots=1))

    async def check(self):
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def create(self, spec):
        if (machine := await self.get(spec.name, "localhost")) is not None:
            return machine
        await self.check()
        config = self._folder / f"{spec.name}.json"  # contains the node's token
        config.touch(mode=0o600)
        config.write_text(spec.bootstrap)
        try:
            node = await asyncio.create_subprocess_exec(*self.config.command, config, start_new_session=True)
        except OSError as error:
            raise Rejected(f"{self.config.command[0]}: {error.strerror}") from None
        state = {"pid": node.pid, "port": json.loads(spec.bootstrap)["port"], "cluster": spec.cluster}
        (self._folder / f"{spec.name}.machine").write_text(json.dumps(state))
        return self._machine(spec.name, state["port"])

    async def get(self, machine_id, location):
        state = self._read(machine_id)
        return state and self._machine(machine_id, state["port"])

    async def list_machines(self, cluster):
        states = {path.stem: self._read(path.stem) for path in self._folder.glob("*.machine")}
        return [self._machine(name, state["port"]) for name, state in states.items() if state["cluster"] == cluster]

    async def delete(self, machine):
        if (state := self._read(machine.id)) is not None:
            with contextlib.suppress(ProcessLookupError):  # it has exited
                os.killpg(state["pid"], signal.SIGTERM)
            for kind in ("machine", "json"):
                (self._folder / f"{machine.id}.{kind}").unlink(missing_ok=True)

    def _read(self, name):
        path = self._folder / f"{name}.machine"
        return json.loads(path.read_text()) if path.exists() else None

    def _machine(self, name, port):
        status, address = MachineStatus.RUNNING, "127.0.0.1"
        return ProviderMachine(id=name, name=name, status=status, location="localhost", address=address, port=port)
