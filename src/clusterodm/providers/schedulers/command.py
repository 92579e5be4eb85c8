# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Anything else: three commands that create, list and delete machines, with JSON between us and them.

`create` reads {"name", "cluster", "size", "location", "spot", "node"} on standard input, where `node` is the content of
NodeODM's configuration file, and answers with the machine: {"id", "name", "status", "address", "port", "location"}.
`list` reads {"cluster"} (empty: of all clusters) and answers with a list of machines; `delete` reads a machine and
answers nothing. `status` is waiting, starting, running, stopped or ending. A command that fails says why on standard
error; exit status 75 means that there is no room now (another size or place is tried), 69 that its service does not
answer, anything else a refusal.
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
#: Exit statuses of sysexits.h that mean something to us.
_UNAVAILABLE: Final = 69
_TEMPORARY: Final = 75


class CommandConfig(ProviderConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of this provider. Commands are lists of words; no shell is between."""

    create: _Command
    list: _Command
    delete: _Command
    location: str | tuple[str, ...] = ""
    #: Whether sizes with a spotPrice are asked for as spot first.
    spot: bool = False
    #: Variables of the commands' environment, beside our own.
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    #: Port of nodes whose machine does not say one.
    node_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 3000


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as a command tells it."""

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
        """As everybody else has it."""
        return ProviderMachine(**msgspec.structs.asdict(self))


class CommandProvider(Provider):
    """Machines of three commands."""

    config: CommandConfig
    has_queue = True

    def __init__(self, entry: dict[str, Any], _: PluginContext) -> None:
        config = read_entry(CommandConfig, entry)
        super().__init__(config)
        self.node_port = config.node_port

    def locations(self) -> Iterable[str]:
        """Places, as the commands know them."""
        return as_list(self.config.location)

    def markets(self, size: Size) -> Iterable[bool]:
        """Spot first, where that is wanted."""
        return (True, False) if self.config.spot and size.spot_price is not None else (False,)

    def price(self, size: Size, *, spot: bool) -> float:
        """As configured."""
        return size.spot_price if spot and size.spot_price is not None else size.price

    def bootstrap(self, name: str, offering: Offering, *, token: str) -> str:
        """What `create` reads, but for the cluster's id."""
        config = self.config
        slots = config.tasks_per_machine
        node = node_config(config, port=config.node_port, token=token, max_images=offering.max_images, slots=slots)
        said = {"name": name, "size": offering.size, "location": offering.location, "spot": offering.spot, "node": node}
        return msgspec.json.format(msgspec.json.encode(said), indent=1).decode()

    def secrets(self) -> list[str]:
        """All of the environment, beside what all have."""
        return [*super().secrets(), *filter(None, self.config.environment.values())]

    async def check(self) -> None:
        """Whether `list` answers."""
        await self.list_machines("-")

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Create a machine, unless `list` has one of that name."""
        for found in await self.list_machines(spec.cluster):
            if found.name == spec.name:
                return found
        said = {**msgspec.json.decode(spec.bootstrap), "cluster": spec.cluster}
        made: ProviderMachine = (await self._ask(self.config.create, said, Answered)).machine()
        if made.name != spec.name:
            raise Rejected(f"{self.config.create[0]} made {made.name[:100]}, not what it was asked for")
        return made

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """One machine, out of all that there are: which cluster it is of does not matter to who knows its id."""
        found = await self._ask(self.config.list, {"cluster": ""}, list[Answered])
        return next((each.machine() for each in found if each.id == machine_id), None)

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """All machines of this cluster."""
        found = await self._ask(self.config.list, {"cluster": cluster}, list[Answered])
        return [each.machine() for each in found]

    async def delete(self, machine: ProviderMachine) -> None:
        """Delete; a command that does not know it any more should be content."""
        await self._ask(self.config.delete, msgspec.to_builtins(machine), None)

    async def _ask(self, command: tuple[str, ...], said: dict[str, Any], kind: Any) -> Any:
        text = msgspec.json.encode(said).decode()
        ended = await run(command, stdin=text, environ=self.config.environment)
        if ended.status == _TEMPORARY:
            raise OutOfCapacity(ended.said)
        if ended.status in (_UNAVAILABLE, -9, -15):
            raise Unreachable(ended.said)
        if ended.status:
            raise Rejected(ended.said)
        if kind is None:
            return None
        try:
            return msgspec.json.decode(ended.out, type=kind)
        except msgspec.DecodeError as error:
            raise Unreachable(f"{command[0]} answered something else than JSON of that kind: {error}") from None
