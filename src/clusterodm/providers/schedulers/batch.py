# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The batch script of a job that runs a node: a free port, a folder of its own, the node, word of where it is.

Values of the configuration reach the shell only as quoted words, but for those that are shell by design (`setup`,
`hostCommand`, `workFolder`); secrets only through files that the job's user alone can read.
"""

from __future__ import annotations

import json
import shlex
from typing import Final, Literal, Protocol

from clusterodm.providers.config import ProviderConfig
from clusterodm.providers.node import node_config, node_image

Runtime = Literal["apptainer", "podman", "docker", "command"]

_PORT: Final = "@PORT@"
#: Seconds for which a node that registered itself may wait until its machine is known to be there.
_LEASE: Final = 3600
#: Where NodeODM's image has its configuration, program and data.
_INSIDE: Final = "/etc/nodeodm.json"
_HOME: Final = "/var/www"


class _Config(Protocol):
    @property
    def runtime(self) -> Runtime: ...
    @property
    def image(self) -> str: ...
    @property
    def command(self) -> tuple[str, ...]: ...
    @property
    def setup(self) -> str: ...
    @property
    def work_folder(self) -> str: ...
    @property
    def host_command(self) -> str: ...
    @property
    def address_folder(self) -> str: ...
    @property
    def callback_url(self) -> str: ...
    @property
    def lease_token(self) -> str: ...


def batch_script(config: _Config, name: str, *, token: str, max_images: int, gpu: bool) -> str:
    """The script for the job `name`."""
    assert isinstance(config, ProviderConfig), "a provider's"  # noqa: S101 - a protocol cannot say it
    contained = config.runtime in ("podman", "docker")
    said = node_config(
        config,
        port=3000 if contained else _PORT,
        token=token,
        max_images=max_images,
        slots=config.tasks_per_machine,
    )
    lines = [
        "#!/bin/bash",
        "set -eu",
        "umask 077",
        f'work=$(mktemp -d "{config.work_folder}/clusterodm-XXXXXXXX")',
        "node=",
        "end() {",
        '  [ -z "$node" ] || { kill -TERM $node && wait $node; } 2>/dev/null || true',
        '  rm -rf "$work"',
        "}",
        "trap end EXIT",
        "trap 'exit 143' TERM INT",
        'mkdir -p "$work/data" "$work/tmp"',
        "for _ in $(seq 100); do",
        "  port=$((20000 + RANDOM % 12000))",
        "  (: </dev/tcp/127.0.0.1/$port) 2>/dev/null || break",
        "done",
        *_written("node.json", json.dumps(said).replace(f'"{_PORT}"', _PORT)),
        *([config.setup] if config.setup else []),
        f"{_run(config, name, gpu=gpu)} &",
        "node=$!",
        f"host=$({config.host_command})",
        *(_tell_by_file(config, name) if config.address_folder else _tell_by_call(config, name, token)),
        "wait $node",
    ]
    return "\n".join(lines) + "\n"


def _written(name: str, content: str) -> list[str]:
    """A file of the job's folder in which the port stands where it is to be."""
    return [
        f"cat >\"$work/{name}\" <<'END-OF-{name}'",
        content,
        f"END-OF-{name}",
        f'sed -i "s/{_PORT}/$port/" "$work/{name}"',
    ]


def _run(config: _Config, name: str, *, gpu: bool) -> str:
    """The command that runs the node, as a line of shell."""
    if config.runtime == "command":
        known = {"{port}": "$port", "{config}": "$work/node.json", "{work}": "$work"}
        return " ".join(_with_places(word, known) for word in config.command)
    binds = {**{f"$work/{folder}": f"{_HOME}/{folder}" for folder in ("data", "tmp")}, "$work/node.json": _INSIDE}
    if config.runtime == "apptainer":
        mounts = " ".join(f'--bind "{here}:{there}"' for here, there in binds.items())
        image = shlex.quote(config.image or f"docker://{node_image('', gpu=gpu)}")
        card = "--nv " if gpu else ""
        return f"apptainer run --writable-tmpfs {card}--pwd {_HOME} {mounts} {image} --config {_INSIDE}"
    mounts = " ".join(f'--volume "{here}:{there}"' for here, there in binds.items())
    image = shlex.quote(node_image(config.image.removeprefix("docker://"), gpu=gpu))
    named = shlex.quote(name)
    card = {"podman": "--device nvidia.com/gpu=all ", "docker": "--gpus all "}[config.runtime] if gpu else ""
    # a user of the image's own could not read what the job's user alone may
    how = f'run --rm --user 0 {card}--name {named} --publish "$port:3000"'
    return f"{config.runtime} {how} {mounts} {image} --config {_INSIDE}"


def _with_places(word: str, known: dict[str, str]) -> str:
    """One word of a command, quoted, with what only the job knows in its place."""
    quoted = shlex.quote(word)
    for place, value in known.items():
        quoted = quoted.replace(place, f"'\"{value}\"'" if quoted.startswith("'") else f'"{value}"')
    return quoted


def _tell_by_file(config: _Config, name: str) -> list[str]:
    folder, named = shlex.quote(config.address_folder), shlex.quote(name)
    return [
        f'printf "%s %s\\n" "$host" "$port" >{folder}/.{named}.part',
        f"mv {folder}/.{named}.part {folder}/{named}",
    ]


def _tell_by_call(config: _Config, name: str, token: str) -> list[str]:
    """The node registers itself; curl reads the tokens from files."""
    said = {"host": "@HOST@", "port": _PORT, "token": token, "ttl": _LEASE, "labels": {"machine": name}}
    url = config.callback_url.rstrip("/") + "/api/v1/leases"
    options = (
        f'url = "{url}"\nheader = "Authorization: Bearer {config.lease_token}"\n'
        'header = "Content-Type: application/json"\nsilent\nshow-error\nfail\n'
        "retry = 60\nretry-delay = 5\nretry-all-errors"
    )
    return [
        *_written("lease.json", json.dumps(said).replace(f'"{_PORT}"', _PORT)),
        'sed -i "s/@HOST@/$host/" "$work/lease.json"',
        *_written("lease.curl", options),
        'curl --config "$work/lease.curl" --data @"$work/lease.json" >/dev/null',
    ]
