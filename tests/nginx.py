# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The shipped configuration of nginx, on ports and in folders of a test."""

from __future__ import annotations

import getpass
import re
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "deploy" / "proxies" / "nginx.conf"


def config(folder: Path, port: int, backends: list[int], *, tls: bool) -> str:
    """All of a configuration, the shipped file in it. With `tls` there are cert.pem and key.pem in the folder."""
    servers = "".join(f"    server 127.0.0.1:{each} max_fails=0;\n" for each in backends)
    live = "/etc/letsencrypt/live/maps.example"
    changes = {
        "    server 127.0.0.1:3000;\n": servers,
        "listen 443 ssl": f"listen 127.0.0.1:{port}{' ssl' if tls else ''}",
        f"{live}/fullchain.pem": f"{folder}/cert.pem",
        f"{live}/privkey.pem": f"{folder}/key.pem",
        "/var/log/nginx/clusterodm": f"{folder}/access",
    }
    text = SHIPPED.read_text()
    for old, new in changes.items():
        assert old in text, f"nginx.conf has no {old}"
        text = text.replace(old, new)
    if not tls:
        text = re.sub(r" *ssl_certificate.*\n", "", text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    # else its workers cannot write below a test's folder
    who = f"user {getpass.getuser()};" if getpass.getuser() == "root" else ""
    return (
        f"{who} daemon off; pid {folder}/pid; error_log {folder}/error.log crit; worker_processes 1;\n"
        f"events {{ worker_connections 512; }}\nhttp {{ access_log off; {paths}\n{text}}}\n"
    )
