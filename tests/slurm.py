# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real Slurm of one machine, below a folder, ended with the block. It needs root, as its daemons do."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.needs import lacking
from tests.processes import free_port

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=2
MinJobAge=10
OverTimeLimit=0
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=5
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4096 State=UNKNOWN
PartitionName=odm Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes={host} MaxTime=1 State=UP
"""
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")


def missing() -> str:
    """Why it cannot run here; empty when it can."""
    return lacking(*_PROGRAMS, root=True)


def ask(config: Path, *command: str) -> str:
    """What one of Slurm's programs says."""
    environ = {**os.environ, "SLURM_CONF": str(config)}
    return subprocess.run(command, check=False, env=environ, capture_output=True, text=True).stdout


def cancel_all(config: Path) -> None:
    """End all jobs and wait until none is there."""
    ask(config, "scancel", "--me")
    end = time.monotonic() + 15
    while ask(config, "squeue", "-h") and time.monotonic() < end:
        time.sleep(0.05)


@contextmanager
def running_slurm() -> Iterator[Path]:
    """The configuration file of a cluster that takes jobs."""
    folder = Path(tempfile.mkdtemp(prefix="clusterodm-slurm-"))
    pids: list[Path] = []
    try:
        config = _prepare(folder)
        environ = {**os.environ, "SLURM_CONF": str(config)}
        munge = folder / "munge"
        places = [f"--{kind}-file={munge / kind}" for kind in ("key", "pid", "log", "seed")]
        pids.append(munge / "pid")
        _run(["munged", "--force", "--num-threads=2", f"--socket={munge / 'socket'}", *places], environ)
        for daemon in ("slurmctld", "slurmd"):
            pids.append(folder / f"{daemon}.pid")
            _run([daemon, "-f", str(config)], environ)
        end = time.monotonic() + 30
        while set(ask(config, "sinfo", "-h", "-o", "%T").split()) != {"idle"}:
            assert time.monotonic() < end, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.05)
        yield config
        cancel_all(config)
    finally:
        for path in reversed(pids):
            _end(path)
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(folder: Path) -> Path:
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    (folder / "munge").chmod(0o711)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    ports = {"control": free_port(), "daemon": free_port()}
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, host=socket.gethostname().partition(".")[0], **ports))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\nConstrainCores=no\n")
    return config


def _run(command: list[str], environ: dict[str, str]) -> None:
    # daemons keep what they inherit: with pipes of ours nobody would see the end of this call
    nothing = subprocess.DEVNULL
    subprocess.run(command, env=environ, check=True, stdout=nothing, stderr=nothing)


def _end(path: Path) -> None:
    """End a daemon by its own pid file and wait until it is gone."""
    with suppress(OSError, ValueError):
        pid = int(path.read_text())
        os.kill(pid, 15)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(0.02)
        os.kill(pid, 9)
