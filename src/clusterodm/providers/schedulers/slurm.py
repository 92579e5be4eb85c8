# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Slurm: each node is a batch job. Its programs are called as any user of the cluster calls them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from clusterodm.core.errors import ConfigError, OutOfCapacity, ProviderError, Rejected, Unreachable
from clusterodm.core.scaling import Offering
from clusterodm.plugins import PluginContext
from clusterodm.providers.base import TAG, MachineSpec, MachineStatus, Provider, ProviderMachine
from clusterodm.providers.config import ProviderConfig, Size, as_list, read_entry
from clusterodm.providers.schedulers.batch import Runtime, batch_script
from clusterodm.providers.schedulers.subprocesses import Ended, run

#: One line a job; the comment is last because anybody's may hold anything.
_FORMAT: Final = "%i|%T|%j|%e|%r|%P|%k"
_STATUS: Final = {
    "PENDING": MachineStatus.WAITING,
    "REQUEUED": MachineStatus.WAITING,
    "REQUEUE_HOLD": MachineStatus.WAITING,
    "SPECIAL_EXIT": MachineStatus.WAITING,
    "CONFIGURING": MachineStatus.STARTING,
    "RUNNING": MachineStatus.RUNNING,
    "SUSPENDED": MachineStatus.RUNNING,
    "RESIZING": MachineStatus.RUNNING,
    "SIGNALING": MachineStatus.RUNNING,
}
#: Reasons of a pending job that time does not change.
_UNSATISFIABLE: Final = (
    "AccountNotAllowed",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
    "JobHeldAdmin",
    "JobHeldUser",
    "PartitionConfig",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSNotAllowed",
    "QOSTimeLimit",
)
#: What sbatch says when more cannot be had now, and when it cannot be asked.
_NO_ROOM: Final = ("violates accounting/qos policy", "submitlimit", "submit limit", "maxjob", "max jobs")
_AWAY: Final = (
    "unable to contact",
    "timed out",
    "communication connection failure",
    "connection refused",
    "temporarily unable to accept",
)


class SlurmSize(Size, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A row of imageSizeMapping: what a job of that size asks for."""

    cpus: Annotated[int, msgspec.Meta(ge=1)]
    #: As Slurm writes it, such as 64G.
    memory: Annotated[str, msgspec.Meta(pattern=r"^\d+[KMGT]?$")]
    gpus: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: Wall time, as Slurm writes it: 12:00:00 or 2-00:00:00; empty: the partition's.
    time: Annotated[str, msgspec.Meta(pattern=r"^(\d+-)?[\d:]*$")] = ""


class SlurmConfig(ProviderConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of this provider."""

    image_size_mapping: Annotated[Sequence[SlurmSize], msgspec.Meta(min_length=1)]
    #: One or more, tried in that order; empty: the cluster's default.
    partition: str | list[str] = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    #: More options of sbatch.
    sbatch_options: tuple[str, ...] = ()
    runtime: Runtime = "apptainer"
    #: Empty: the default of all providers.
    image: str = ""
    #: With the runtime command: what runs a node; {port}, {config} and {work} stand for its port, its configuration
    #: file and a folder of its own.
    command: tuple[str, ...] = ()
    #: Lines of shell that come first, such as module load apptainer.
    setup: str = ""
    #: A folder on the compute node in which each job makes its own.
    work_folder: str = "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"
    #: Prints the name or address under which we reach the compute node.
    host_command: str = "hostname -f"
    #: A folder that compute nodes and we share, through which jobs tell where their node is.
    address_folder: str = ""
    #: Or: the URL of our admin port as compute nodes reach it, and the lease token.
    callback_url: str = ""
    lease_token: str = ""
    #: Where Slurm's programs and configuration are, if not where they are looked for by themselves.
    slurm_bin: str = ""
    slurm_conf: str = ""


class Slurm(Provider):
    """Batch jobs."""

    config: SlurmConfig
    has_queue = True

    def __init__(self, entry: dict[str, Any], _: PluginContext) -> None:
        config = read_entry(SlurmConfig, entry)
        if bool(config.address_folder) == bool(config.callback_url):
            raise ConfigError("provider slurm: one of addressFolder and callbackUrl says how a node tells where it is")
        if config.callback_url and not config.lease_token:
            raise ConfigError("provider slurm: callbackUrl needs leaseToken (as --lease-token)")
        if config.runtime == "command" and not config.command:
            raise ConfigError("provider slurm: runtime command needs command")
        super().__init__(config)

    def locations(self) -> Iterable[str]:
        """Partitions."""
        return as_list(self.config.partition)

    def bootstrap(self, name: str, offering: Offering, *, token: str) -> str:
        """The batch script."""
        gpu = self._size(offering).gpus > 0
        return batch_script(self.config, name, token=token, max_images=offering.max_images, gpu=gpu)

    def _size(self, offering: Offering) -> SlurmSize:
        return next(size for size in self.config.image_size_mapping if size.slug == offering.size)

    def secrets(self) -> list[str]:
        """The lease token, beside what all have."""
        return [*super().secrets(), *filter(None, [self.config.lease_token])]

    async def check(self) -> None:
        """Whether the controller answers and the partitions are there."""
        known = {line.rstrip("*") for line in (await self._ask("sinfo", "--noheader", "-o", "%P")).out.split()}
        if missing := [name for name in self.locations() if name and name not in known]:
            raise Rejected(f"there is no partition {missing[0]}")
        if self.config.address_folder and not Path(self.config.address_folder).is_dir():
            raise Rejected(f"addressFolder {self.config.address_folder} is not there")

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Submit a job, unless there is one of that name."""
        for found in await self._jobs(f"--name={spec.name}"):
            if found.name == spec.name:
                return found
        ended = await self._ask("sbatch", *self._options(spec), stdin=spec.bootstrap)
        job = ended.out.strip().partition(";")[0]
        if not job.isdigit():
            raise Unreachable(f"sbatch answered {ended.out[:80]!r}")
        return ProviderMachine(id=job, name=spec.name, status=MachineStatus.WAITING, location=spec.offering.location)

    def _options(self, spec: MachineSpec) -> list[str]:
        config = self.config
        size = self._size(spec.offering)
        optional = {
            "partition": spec.offering.location,
            "account": config.account,
            "qos": config.qos,
            "constraint": config.constraint,
            "gpus": str(size.gpus or ""),
            "time": size.time,
        }
        return [
            "--parsable",
            f"--job-name={spec.name}",
            f"--comment={TAG}:{spec.cluster}",
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={size.cpus}",
            f"--mem={size.memory}",
            "--no-requeue",
            "--output=/dev/null",
            *(f"--{key}={value}" for key, value in optional.items() if value),
            *config.sbatch_options,
        ]

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """One job; None once it has ended."""
        try:
            found = await self._jobs(f"--jobs={machine_id}")
        except Rejected as error:
            if "invalid job id" in str(error).lower():
                return None
            raise
        return found[0] if found else None

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Our user's jobs with our comment."""
        return await self._jobs("--me", comment=f"{TAG}:{cluster}")

    async def delete(self, machine: ProviderMachine) -> None:
        """Cancel a job; one that has ended is fine."""
        try:
            await self._ask("scancel", machine.id)
        except Rejected as error:
            if "invalid job id" not in str(error).lower() and "already completing" not in str(error).lower():
                raise
        if self.config.address_folder:
            Path(self.config.address_folder, machine.name).unlink(missing_ok=True)

    async def _jobs(self, which: str, *, comment: str = "") -> list[ProviderMachine]:
        ended = await self._ask("squeue", "--noheader", f"--format={_FORMAT}", which)
        found = []
        for line in ended.out.splitlines():
            parts = line.split("|", 6)
            if len(parts) == 7 and (not comment or parts[6] == comment):
                found.append(self._machine(*parts[:6]))
        return found

    def _machine(self, job: str, state: str, name: str, end: str, reason: str, partition: str) -> ProviderMachine:
        status = _STATUS.get(state, MachineStatus.ENDING)
        address, port = self._address(name) if status is MachineStatus.RUNNING else ("", 0)
        waits = status is MachineStatus.WAITING
        return ProviderMachine(
            id=job,
            name=name,
            status=status,
            location=partition if partition in self.locations() else "",
            address=address,
            port=port,
            ends_at=float(end) if end.isdigit() and status is MachineStatus.RUNNING else 0.0,
            reason=reason if waits else "",
            unsatisfiable=waits and reason in _UNSATISFIABLE,
        )

    def _address(self, name: str) -> tuple[str, int]:
        """Where a job's node is, as the job wrote it down; nothing while it has not, or tells it another way."""
        if not self.config.address_folder:
            return "", 0
        try:
            host, port = Path(self.config.address_folder, name).read_text().split()
            return host, int(port)
        except (OSError, ValueError):
            return "", 0

    async def _ask(self, program: str, *arguments: str, stdin: str = "") -> Ended:
        environ = {"SLURM_TIME_FORMAT": "%s"}
        if self.config.slurm_conf:
            environ["SLURM_CONF"] = self.config.slurm_conf
        path = str(Path(self.config.slurm_bin) / program) if self.config.slurm_bin else program
        ended = await run([path, *arguments], stdin=stdin, environ=environ)
        if ended.status:
            raise _refusal(ended)
        return ended


def _refusal(ended: Ended) -> ProviderError:
    text = ended.err.lower()
    if any(sign in text for sign in _AWAY):
        return Unreachable(ended.said)
    if any(sign in text for sign in _NO_ROOM):
        return OutOfCapacity(ended.said)
    return Rejected(ended.said)
