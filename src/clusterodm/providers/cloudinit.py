# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""cloud-init user data that installs a container engine and runs a node.

Values of the configuration reach the shell only as quoted words, secrets only as files readable by root alone. The
document is written as JSON, which is valid YAML without its ambiguities.
"""

from __future__ import annotations

import json
import shlex
from typing import Any, Final

from clusterodm.providers.config import CloudConfig
from clusterodm.providers.node import node_config, node_image

_FOLDER: Final = "/etc/clusterodm"
#: Path of the node's configuration inside its container.
_INSIDE: Final = "/etc/nodeodm.json"
_METADATA: Final = "169.254.169.254"


def user_data(config: CloudConfig, *, token: str, max_images: int, slots: int) -> str:
    """Return the user data of one machine. `token` is what its node requires of its clients."""
    node = node_config(config, port=3000, token=token, max_images=max_images, slots=slots)
    files = [
        _file("node.json", json.dumps(node)),
        _file("boot.sh", _script(config), mode="0700"),
    ]
    if config.node_setup_cmd:
        files.append(_file("setup.sh", config.node_setup_cmd + "\n", mode="0700"))
    if config.docker_registry is not None:
        files.append(_file("registry", config.docker_registry.password))
    document = {"write_files": files, "runcmd": [[f"{_FOLDER}/boot.sh"]]}
    return "#cloud-config\n" + json.dumps(document, indent=1) + "\n"


def _file(name: str, content: str, *, mode: str = "0600") -> dict[str, Any]:
    return {"path": f"{_FOLDER}/{name}", "permissions": mode, "owner": "root:root", "content": content}


def _script(config: CloudConfig) -> str:
    lines = [
        "#!/bin/sh",
        "set -eu",
        "exec >/var/log/clusterodm-boot.log 2>&1",
    ]
    if config.max_runtime > 0:
        # ends the costs even if the cluster is down and cannot delete it
        lines.append(f"shutdown -P +{config.max_runtime // 60 + 30} || true")
    if config.add_swap > 0:
        lines += [
            f"kilobytes=$(awk '/^MemTotal:/ {{printf \"%d\", $2 * {config.add_swap:g}}}' /proc/meminfo)",
            'fallocate -l "${kilobytes}K" /swapfile && chmod 600 /swapfile || true',
            "mkswap /swapfile && swapon /swapfile || true",
        ]
    if config.node_setup_cmd:
        lines.append(f"sh {_FOLDER}/setup.sh")
    url = shlex.quote(config.engine_install_url)
    lines.append(f"command -v docker >/dev/null || {{ curl -fsSL --retry 5 {url} | sh; }}")
    if config.docker_registry is not None:
        registry = config.docker_registry
        words = ["docker", "login", "--username", registry.username, "--password-stdin", *filter(None, [registry.url])]
        lines.append(f"{shlex.join(words)} <{_FOLDER}/registry")
        lines.append(f"rm -f {_FOLDER}/registry")
    # keep the container from the credentials of the machine
    lines.append(f"iptables -I FORWARD -d {_METADATA} -j DROP || true")
    lines.append(shlex.join(_run(config)))
    return "\n".join(lines) + "\n"


def _run(config: CloudConfig) -> list[str]:
    gpus = ["--gpus", "all"] if config.docker_gpu else []
    data = ["--volume", f"{config.data_dir_mount_path}:/var/www/data"] if config.data_dir_mount_path else []
    return [
        *("docker", "run", "--detach", "--name", "nodeodm", "--restart", "unless-stopped"),
        # the user of some images could neither read the file nor write to a mounted data folder
        *("--user", "0"),
        *("--publish", f"{config.node_port}:3000", *gpus, *data),
        *("--volume", f"{_FOLDER}/node.json:{_INSIDE}:ro"),
        *(node_image(config.docker_image, gpu=config.docker_gpu), "--config", _INSIDE),
    ]
