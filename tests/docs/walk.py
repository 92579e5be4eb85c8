# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs the commands of a page of the documentation, as they stand there, in a network and a folder of their own.

    unshare --net python -m tests.docs.walk PAGE FOLDER

Ports, addresses and names are those of the page: a node at 192.168.1.11:3000, on another host, and, where the page
starts none of its own, a cluster in front of it on its usual ports.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import trustme

from clusterodm.devnode.photos import make_photos
from tests.docs.pages import TOP, commands, walked

NODE = "192.168.1.11"
#: Tasks take a second instead of half a minute, and the program is that of these tests.
INSTEAD = {"--seconds 30": "--seconds 1", "venv/bin/clusterodm": "clusterodm"}
#: Folders of other disks and hosts, which are not made at the root of this machine.
FOLDERS = ("/mnt/", "/shared/", "/opt/ClusterODM")
#: Where a page shows no file of the autoscaler.
COMMAND = {
    "provider": "command",
    "create": ["true"],
    "list": ["echo", "[]"],
    "delete": ["true"],
    "imageSizeMapping": [{"maxImages": 1000, "slug": "one"}],
}
#: What is asked of a cluster that runs.
ASKED = re.compile(r"clusterodm (status|queue|task|node|machine|submit|backup|health) |curl ")
#: What the pages say is done while no cluster runs.
STOPPED = re.compile(r"clusterodm (restore|import)")
#: These say by their exit code that something is wrong, which it may be here.
ASKING = re.compile(r"clusterodm (status|doctor)")


def make_network() -> subprocess.Popen[bytes]:
    """A second host with the node's address; the process that holds its network."""
    other = subprocess.Popen(["unshare", "--net", "sleep", "300"])
    while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        time.sleep(0.01)
    in_namespace = ["nsenter", "--net", "--target", str(other.pid), "ip"]
    for words in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(other.pid)],
        ["ip", "addr", "add", "192.168.1.1/24", "dev", "here"],
        ["ip", "link", "set", "here", "up"],
        [*in_namespace, "link", "set", "lo", "up"],
        [*in_namespace, "addr", "add", f"{NODE}/24", "dev", "there"],
        [*in_namespace, "link", "set", "there", "up"],
    ):
        subprocess.run(words, check=True)
    return other


def wait_for(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something listens there."""
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on {host}:{port}")


class Walk:
    """A page that is being followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.servers: list[subprocess.Popen[bytes]] = []
        self.cluster: subprocess.Popen[bytes] | None = None
        self.here = folder

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start what runs until it is stopped."""
        words = shlex.split(command)
        port = int(words[words.index("--port") + 1]) if "--port" in words else 3000
        host = words[words.index("--host") + 1] if "--host" in words else "127.0.0.1"
        process = subprocess.Popen(words, cwd=self.here, env=self.environ, stdin=subprocess.DEVNULL)
        self.servers.append(process)
        wait_for(host, port, process)
        return process

    def serve(self, command: str) -> None:
        """Start a cluster in the place of the one that there is."""
        self.stop()
        self.cluster = self.start(command)

    def stop(self) -> None:
        """End the cluster, if there is one."""
        if self.cluster is not None:
            self.cluster.terminate()
            self.cluster.wait(30)
            self.cluster = None

    def shell(self, command: str) -> int:
        """Run something that ends by itself, in the folder in which the command before it left off; the exit code."""
        directory_file = self.folder / ".left"
        script = f"{command}\ncode=$?; pwd > {shlex.quote(str(directory_file))}; exit $code"
        words = ["bash", "-c", script]
        process = subprocess.run(words, check=False, env=self.environ, stdin=subprocess.DEVNULL, cwd=self.here)
        self.here = Path(directory_file.read_text().strip())
        return process.returncode

    def follow(self, command: str) -> None:
        """One command of the page."""
        print(f"$ {command}", flush=True)
        for old, new in INSTEAD.items():
            command = command.replace(old, new)
        for old in FOLDERS:
            command = command.replace(f" {old}", f" {self.folder}{old}")
        words = shlex.split(command, comments=True)
        if ASKED.match(f"{command} ") and self.cluster is None:
            self.serve(f"clusterodm serve --node {NODE}:3000")
            self.shell("clusterodm submit photos/ --url http://localhost:3000")
        if words[0].endswith("clusterodm") and (words[1] == "serve" or words[1].startswith("--node")):
            self.serve(command)
        elif words[:2] == ["clusterodm", "devnode"]:
            self.start(command)
        else:
            if STOPPED.match(command):
                self.stop()
            code = self.shell(command)
            allowed = (0, 1) if ASKING.match(command) else (0,)
            if code not in allowed:
                raise SystemExit(f"exit code {code}: {command}")

    def end(self) -> None:
        """Stop what was started."""
        for process in self.servers:
            process.terminate()
        for process in self.servers:
            process.wait(30)


def furnish(folder: Path, page: Path) -> None:
    """What the pages take for granted: photos, a project, another disk, certificates, configurations."""
    make_photos(folder / "photos", 3)
    shutil.copytree(TOP / "deploy", folder / "deploy")
    for name in FOLDERS:
        (folder / name.strip("/")).mkdir(parents=True)
    (folder / "cluster.json").write_text(json.dumps({"node": ["192.168.1.11:3000"], "data-dir": "elsewhere"}))
    match = re.search(r"```json\n(.*?)```", page.read_text(), re.DOTALL)
    asr = match[1].replace("CHANGEME!", "hush-made-up") if match else json.dumps(COMMAND)
    (folder / "asr.json").write_text(asr)
    original = folder / "opt/ClusterODM"
    (original / "data").mkdir()
    (original / "data/nodes.json").write_text(json.dumps([{"hostname": "192.168.1.12", "port": "3000", "token": ""}]))
    certificate = trustme.CA().issue_cert("maps.example")
    certificate.cert_chain_pems[0].write_to_path(folder / "fullchain.pem")
    certificate.private_key_pem.write_to_path(folder / "privkey.pem")


def main(page: Path, folder: Path) -> None:
    """Follow a page."""
    furnish(folder, page)
    other = make_network()
    walk = Walk(folder)
    try:
        in_namespace = ["nsenter", "--net", "--target", str(other.pid), "clusterodm", "devnode", "--seconds", "1"]
        where = ["--host", NODE, "--port", "3000", "--data-dir", str(folder / "node")]
        walk.servers.append(subprocess.Popen([*in_namespace, *where], env=walk.environ))
        wait_for(NODE, 3000, walk.servers[0])
        for command in commands(page):
            if walked(command):
                walk.follow(command)
    finally:
        walk.end()
        other.kill()
        other.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
