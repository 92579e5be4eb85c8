# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The batch script of a job that runs a node: find a free port, make a work folder, start the node, report its address.

Values of the configuration reach the shell only as quoted words, except those that are shell by design (`setup`,
`hostCommand`, `workFolder`); secrets only through files readable by the job's user alone.
"""

from __future__ import annotations

import json
import shlex
from typing import Final, Literal, Protocol

from clusterodm.providers.config import ProviderConfig
from clusterodm.providers.node import node_config, node_image

Runtime = Literal["apptainer", "podman", "docker", "command"]

_PORT: Final = "@PORT@"
#: Lease in seconds of a node that registers itself: time for its machine to be seen.
_LEASE: Final = 3600
#: Paths inside NodeODM's image: configuration; program and data.
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
    """Return the script of the job `name`."""
    assert isinstance(config, ProviderConfig), "a provider's"  # noqa: S101 - a protocol cannot express it
    contained = config.runtime in ("podman", "docker")
    node = node_config(
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
        *_file("node.json", json.dumps(node).replace(f'"{_PORT}"', _PORT)),
        *([config.setup] if config.setup else []),
        f"{_run(config, name, gpu=gpu)} &",
        "node=$!",
        f"host=$({config.host_command})",
        *(_report_by_file(config, name) if config.address_folder else _report_by_lease(config, name, token)),
        "wait $node",
    ]
    return "\n".join(lines) + "\n"


def _file(name: str, content: str) -> list[str]:
    """Write a file into the work folder, with the port filled in."""
    return [
        f"cat >\"$work/{name}\" <<'END-OF-{name}'",
        content,
        f"END-OF-{name}",
        f'sed -i "s/{_PORT}/$port/" "$work/{name}"',
    ]


def _run(config: _Config, name: str, *, gpu: bool) -> str:
    """Return the shell command that runs the node."""
    if config.runtime == "command":
        values = {"{port}": "$port", "{config}": "$work/node.json", "{work}": "$work"}
        return " ".join(_filled(word, values) for word in config.command)
    binds = {**{f"$work/{folder}": f"{_HOME}/{folder}" for folder in ("data", "tmp")}, "$work/node.json": _INSIDE}
    if config.runtime == "apptainer":
        mounts = " ".join(f'--bind "{source}:{target}"' for source, target in binds.items())
        image = shlex.quote(config.image or f"docker://{node_image('', gpu=gpu)}")
        gpus = "--nv " if gpu else ""
        return f"apptainer run --writable-tmpfs {gpus}--pwd {_HOME} {mounts} {image} --config {_INSIDE}"
    mounts = " ".join(f'--volume "{source}:{target}"' for source, target in binds.items())
    image = shlex.quote(node_image(config.image.removeprefix("docker://"), gpu=gpu))
    named = shlex.quote(name)
    gpus = {"podman": "--device nvidia.com/gpu=all ", "docker": "--gpus all "}[config.runtime] if gpu else ""
    # the image's own user could not read files of the job's user
    options = f'run --rm --user 0 {gpus}--name {named} --publish "$port:3000"'
    return f"{config.runtime} {options} {mounts} {image} --config {_INSIDE}"


def _filled(word: str, values: dict[str, str]) -> str:
    """Quote a word of a command, with placeholders replaced by shell variables."""
    quoted = shlex.quote(word)
    for placeholder, value in values.items():
        quoted = quoted.replace(placeholder, f"'\"{value}\"'" if quoted.startswith("'") else f'"{value}"')
    return quoted


def _report_by_file(config: _Config, name: str) -> list[str]:
    folder, named = shlex.quote(config.address_folder), shlex.quote(name)
    return [
        f'printf "%s %s\\n" "$host" "$port" >{folder}/.{named}.part',
        f"mv {folder}/.{named}.part {folder}/{named}",
    ]


def _report_by_lease(config: _Config, name: str, token: str) -> list[str]:
    """Register the node by a lease. curl reads the tokens from files."""
    lease = {"host": "@HOST@", "port": _PORT, "token": token, "ttl": _LEASE, "labels": {"machine": name}}
    url = config.callback_url.rstrip("/") + "/api/v1/leases"
    options = (
        f'url = "{url}"\nheader = "Authorization: Bearer {config.lease_token}"\n'
        'header = "Content-Type: application/json"\nsilent\nshow-error\nfail\n'
        "retry = 60\nretry-delay = 5\nretry-all-errors"
    )
    return [
        *_file("lease.json", json.dumps(lease).replace(f'"{_PORT}"', _PORT)),
        'sed -i "s/@HOST@/$host/" "$work/lease.json"',
        *_file("lease.curl", options),
        'curl --config "$work/lease.curl" --data @"$work/lease.json" >/dev/null',
    ]
