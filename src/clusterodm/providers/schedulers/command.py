# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Any other source of machines: three commands that create, list and delete them, and speak JSON.

`create` reads {"name", "cluster", "size", "location", "spot", "node"} on standard input, where `node` is the content of
NodeODM's configuration file, and prints the machine: {"id", "name", "status", "address", "port", "location"}.
`list` reads {"cluster"} (empty: all clusters) and prints a list of machines; `delete` reads a machine and prints
nothing. `status` is waiting, starting, running, stopped or ending. A command that fails prints the reason to
standard error; exit status 75 means no capacity (the next offering is tried), 69 that its service does not respond,
anything else a rejection.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeVar

import msgspec

from clusterodm.core.errors import OutOfCapacity, Rejected, Unreachable
from clusterodm.core.scaling import Offering
from clusterodm.plugins import PluginContext
from clusterodm.providers.base import MachineSpec, MachineStatus, Provider, ProviderMachine
from clusterodm.providers.config import ProviderConfig, Size, as_list, read_entry
from clusterodm.providers.node import node_config
from clusterodm.providers.schedulers.subprocesses import run

T = TypeVar("T")

_Command = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
#: Exit statuses of sysexits.h with a meaning of their own.
_UNAVAILABLE: Final = 69
_TEMPORARY: Final = 75


class CommandConfig(ProviderConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of this provider. Commands are lists of words, run without a shell."""

    create: _Command
    list: _Command
    delete: _Command
    location: str | tuple[str, ...] = ""
    #: Try sizes that have a spotPrice on the spot market first.
    spot: bool = False
    #: Added to the environment of the commands.
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    #: Port of nodes whose machine does not report one.
    node_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 3000


class ReportedMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as a command prints it."""

    id: str
    name: str
    status: MachineStatus = MachineStatus.RUNNING
    address: str = ""
    port: int = 0
    location: str = ""
    ends_at: float = 0.0
    reason: str = ""
    volumes: list[str] = []

    def machine(self) -> ProviderMachine:
        """Return it as a record of the contract."""
        return ProviderMachine(**msgspec.structs.asdict(self))


class CommandProvider(Provider):
    """Machines managed by three commands."""

    config: CommandConfig
    has_queue = True

    def __init__(self, entry: dict[str, Any], _: PluginContext) -> None:
        config = read_entry(CommandConfig, entry)
        super().__init__(config)
        self.node_port = config.node_port

    def locations(self) -> Iterable[str]:
        """Return the configured locations."""
        return as_list(self.config.location)

    def markets(self, size: Size) -> Iterable[bool]:
        """Return spot first where configured."""
        return (True, False) if self.config.spot and size.spot_price is not None else (False,)

    def price(self, size: Size, *, spot: bool) -> float:
        """Return the spot price on the spot market."""
        return size.spot_price if spot and size.spot_price is not None else size.price

    def bootstrap(self, name: str, offering: Offering, *, token: str) -> str:
        """Render the input of `create`, without the cluster's id."""
        config = self.config
        slots = config.tasks_per_machine
        node = node_config(config, port=config.node_port, token=token, max_images=offering.max_images, slots=slots)
        request = {
            "name": name,
            "size": offering.size,
            "location": offering.location,
            "spot": offering.spot,
            "node": node,
        }
        return msgspec.json.format(msgspec.json.encode(request), indent=1).decode()

    def secrets(self) -> list[str]:
        """Add all values of the environment."""
        return [*super().secrets(), *filter(None, self.config.environment.values())]

    async def check(self) -> None:
        """Call `list`."""
        await self.list_machines("-")

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Create a machine unless `list` has one of that name."""
        for machine in await self.list_machines(spec.cluster):
            if machine.name == spec.name:
                return machine
        request = {**msgspec.json.decode(spec.bootstrap), "cluster": spec.cluster}
        created: ProviderMachine = (await self._run(self.config.create, request, ReportedMachine)).machine()
        if created.name != spec.name:
            raise Rejected(f"{self.config.create[0]} created {created.name[:100]} instead of {spec.name}")
        return created

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """Search the machines of all clusters: an id is enough."""
        machines = await self._run(self.config.list, {"cluster": ""}, list[ReportedMachine])
        return next((each.machine() for each in machines if each.id == machine_id), None)

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Call `list` for this cluster."""
        machines = await self._run(self.config.list, {"cluster": cluster}, list[ReportedMachine])
        return [each.machine() for each in machines]

    async def delete(self, machine: ProviderMachine) -> None:
        """Call `delete`, which should accept a machine that is gone."""
        await self._run(self.config.delete, msgspec.to_builtins(machine), None)

    async def _run(self, command: tuple[str, ...], request: dict[str, Any], kind: Any) -> Any:
        text = msgspec.json.encode(request).decode()
        done = await run(command, stdin=text, environ=self.config.environment)
        if done.status == _TEMPORARY:
            raise OutOfCapacity(done.error)
        if done.status in (_UNAVAILABLE, -9, -15):
            raise Unreachable(done.error)
        if done.status:
            raise Rejected(done.error)
        if kind is None:
            return None
        try:
            return msgspec.json.decode(done.out, type=kind)
        except msgspec.DecodeError as error:
            raise Unreachable(f"{command[0]} did not print the expected JSON: {error}") from None
