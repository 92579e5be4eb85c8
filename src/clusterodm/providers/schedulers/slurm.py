# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Slurm: each node is a batch job, managed with Slurm's own programs by an ordinary user."""

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
from clusterodm.providers.schedulers.subprocesses import Completed, run

#: One line per job. The comment comes last, because those of other jobs may contain anything.
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
#: Reasons for which a pending job would wait forever.
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
#: Messages of sbatch if a limit is reached, and if the controller does not respond.
_NO_CAPACITY: Final = ("violates accounting/qos policy", "submitlimit", "submit limit", "maxjob", "max jobs")
_OUTAGE: Final = (
    "unable to contact",
    "timed out",
    "communication connection failure",
    "connection refused",
    "temporarily unable to accept",
)


class SlurmSize(Size, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A row of imageSizeMapping: the resources of a job."""

    cpus: Annotated[int, msgspec.Meta(ge=1)]
    #: In Slurm's notation, such as 64G.
    memory: Annotated[str, msgspec.Meta(pattern=r"^\d+[KMGT]?$")]
    gpus: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: Time limit in Slurm's notation, such as 12:00:00 or 2-00:00:00; empty: the partition's.
    time: Annotated[str, msgspec.Meta(pattern=r"^(\d+-)?[\d:]*$")] = ""


class SlurmConfig(ProviderConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of this provider."""

    image_size_mapping: Annotated[Sequence[SlurmSize], msgspec.Meta(min_length=1)]
    #: One or more, in order of preference; empty: the cluster's default.
    partition: str | list[str] = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    #: Additional options of sbatch.
    sbatch_options: tuple[str, ...] = ()
    runtime: Runtime = "apptainer"
    #: Empty: the default of `node_image`.
    image: str = ""
    #: With the runtime `command`: the command that runs a node; {port}, {config} and {work} are replaced by its port,
    #: its configuration file and its work folder.
    command: tuple[str, ...] = ()
    #: Shell commands that run first, such as `module load apptainer`.
    setup: str = ""
    #: Parent of the jobs' work folders on the compute node.
    work_folder: str = "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"
    #: Prints the name or address at which the cluster reaches the compute node.
    host_command: str = "hostname -f"
    #: A folder shared with the compute nodes, through which jobs report the address of their node.
    address_folder: str = ""
    #: Or: the URL of the admin port as seen from compute nodes, and the lease token.
    callback_url: str = ""
    lease_token: str = ""
    #: Folder of Slurm's programs, and its configuration file, if not the default ones.
    slurm_bin: str = ""
    slurm_conf: str = ""


class Slurm(Provider):
    """Batch jobs."""

    config: SlurmConfig
    has_queue = True

    def __init__(self, entry: dict[str, Any], _: PluginContext) -> None:
        config = read_entry(SlurmConfig, entry)
        if bool(config.address_folder) == bool(config.callback_url):
            raise ConfigError(
                "provider slurm needs either addressFolder or callbackUrl, through which nodes report their address"
            )
        if config.callback_url and not config.lease_token:
            raise ConfigError("provider slurm: callbackUrl needs leaseToken (as --lease-token)")
        if config.runtime == "command" and not config.command:
            raise ConfigError("provider slurm: runtime command needs command")
        super().__init__(config)

    def locations(self) -> Iterable[str]:
        """Return partitions."""
        return as_list(self.config.partition)

    def bootstrap(self, name: str, offering: Offering, *, token: str) -> str:
        """Render the batch script."""
        gpu = self._size(offering).gpus > 0
        return batch_script(self.config, name, token=token, max_images=offering.max_images, gpu=gpu)

    def _size(self, offering: Offering) -> SlurmSize:
        return next(size for size in self.config.image_size_mapping if size.slug == offering.size)

    def secrets(self) -> list[str]:
        """Add the lease token."""
        return [*super().secrets(), *filter(None, [self.config.lease_token])]

    async def check(self) -> None:
        """Call the controller and look for the partitions."""
        partitions = {line.rstrip("*") for line in (await self._run("sinfo", "--noheader", "-o", "%P")).out.split()}
        if missing := [name for name in self.locations() if name and name not in partitions]:
            raise Rejected(f"there is no partition {missing[0]}")
        if self.config.address_folder and not Path(self.config.address_folder).is_dir():
            raise Rejected(f"addressFolder {self.config.address_folder} does not exist")

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Submit a job unless there is one of that name."""
        for machine in await self._jobs(f"--name={spec.name}"):
            if machine.name == spec.name:
                return machine
        done = await self._run("sbatch", *self._options(spec), stdin=spec.bootstrap)
        job = done.out.strip().partition(";")[0]
        if not job.isdigit():
            raise Unreachable(f"sbatch printed {done.out[:80]!r}")
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
        """Return a job; None once it has ended."""
        try:
            jobs = await self._jobs(f"--jobs={machine_id}")
        except Rejected as error:
            if "invalid job id" in str(error).lower():
                return None
            raise
        return jobs[0] if jobs else None

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Return the jobs of this user that have the comment."""
        return await self._jobs("--me", comment=f"{TAG}:{cluster}")

    async def delete(self, machine: ProviderMachine) -> None:
        """Cancel a job; one that has ended is no error."""
        try:
            await self._run("scancel", machine.id)
        except Rejected as error:
            if "invalid job id" not in str(error).lower() and "already completing" not in str(error).lower():
                raise
        if self.config.address_folder:
            Path(self.config.address_folder, machine.name).unlink(missing_ok=True)

    async def _jobs(self, which: str, *, comment: str = "") -> list[ProviderMachine]:
        done = await self._run("squeue", "--noheader", f"--format={_FORMAT}", which)
        machines = []
        for line in done.out.splitlines():
            parts = line.split("|", 6)
            if len(parts) == 7 and (not comment or parts[6] == comment):
                machines.append(self._machine(*parts[:6]))
        return machines

    def _machine(self, job: str, state: str, name: str, end: str, reason: str, partition: str) -> ProviderMachine:
        status = _STATUS.get(state, MachineStatus.ENDING)
        address, port = self._address(name) if status is MachineStatus.RUNNING else ("", 0)
        waiting = status is MachineStatus.WAITING
        return ProviderMachine(
            id=job,
            name=name,
            status=status,
            location=partition if partition in self.locations() else "",
            address=address,
            port=port,
            ends_at=float(end) if end.isdigit() and status is MachineStatus.RUNNING else 0.0,
            reason=reason if waiting else "",
            unsatisfiable=waiting and reason in _UNSATISFIABLE,
        )

    def _address(self, name: str) -> tuple[str, int]:
        """Read host and port that a job has reported by file; ("", 0) if there are none."""
        if not self.config.address_folder:
            return "", 0
        try:
            host, port = Path(self.config.address_folder, name).read_text().split()
            return host, int(port)
        except (OSError, ValueError):
            return "", 0

    async def _run(self, program: str, *arguments: str, stdin: str = "") -> Completed:
        environ = {"SLURM_TIME_FORMAT": "%s"}
        if self.config.slurm_conf:
            environ["SLURM_CONF"] = self.config.slurm_conf
        path = str(Path(self.config.slurm_bin) / program) if self.config.slurm_bin else program
        done = await run([path, *arguments], stdin=stdin, environ=environ)
        if done.status:
            raise _refusal(done)
        return done


def _refusal(done: Completed) -> ProviderError:
    text = done.err.lower()
    if any(part in text for part in _OUTAGE):
        return Unreachable(done.error)
    if any(part in text for part in _NO_CAPACITY):
        return OutOfCapacity(done.error)
    return Rejected(done.error)
