# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Access to a Kubernetes API server: by the service account of a pod, or by a kubeconfig file."""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from clusterodm.core.errors import ConfigError

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """The address of a server, and credentials."""

    url: str
    #: None: the certificate authorities of the system.
    tls: ssl.SSLContext | None
    #: Called for each request: tokens of service accounts are rotated.
    token: Callable[[], str]
    namespace: str

    def __repr__(self) -> str:
        return f"Access({self.url})"


def in_cluster(host: str, port: str, folder: Path = _ACCOUNT) -> Access:
    """Return the access of a pod. Raise ConfigError outside of one."""
    if not host or not (folder / "token").is_file():
        raise ConfigError("provider kubernetes: not running in a pod with a service account; set kubeconfig")
    name = f"[{host}]" if ":" in host else host
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    namespace = (folder / "namespace").read_text().strip() if (folder / "namespace").is_file() else "default"
    return Access(
        url=f"https://{name}:{port}",
        tls=context,
        token=lambda: (folder / "token").read_text().strip(),
        namespace=namespace,
    )


def from_kubeconfig(path: Path, context_name: str = "") -> Access:
    """Return the access of a context, by default the current one. Raise ConfigError that names what is missing."""
    try:
        content = msgspec.yaml.decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"provider kubernetes: {path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, ImportError) as error:
        raise ConfigError(f"provider kubernetes: {path} cannot be read: {error}") from None
    try:
        context = _named(content, "contexts", "context", context_name or content["current-context"])
        cluster = _named(content, "clusters", "cluster", context["cluster"])
        user = _named(content, "users", "user", context["user"])
        return Access(
            url=str(cluster["server"]).rstrip("/"),
            tls=_tls(path.parent, cluster, user),
            token=_token(path.parent, user),
            namespace=context.get("namespace", "default"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"provider kubernetes: {path} lacks {error}") from None


def _named(content: dict[str, Any], many: str, one: str, name: str) -> dict[str, Any]:
    for each in content[many]:
        if each["name"] == name:
            item: dict[str, Any] = each[one]
            return item
    raise KeyError(f"{one} {name}")


def _token(folder: Path, user: dict[str, Any]) -> Callable[[], str]:
    if "exec" in user or "auth-provider" in user:
        raise ConfigError(
            "provider kubernetes: kubeconfigs that run a program for a token are not supported; create a service "
            "account and a token for it"
        )
    if "tokenFile" in user:
        path = folder / user["tokenFile"]
        return lambda: path.read_text().strip()
    token = str(user.get("token", ""))
    return lambda: token


def _tls(folder: Path, cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext | None:
    if not str(cluster["server"]).startswith("https:"):
        return None
    context = ssl.create_default_context(cadata=_content(folder, cluster, "certificate-authority") or None)
    if cluster.get("insecure-skip-tls-verify"):  # explicitly configured
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _content(folder, user, "client-certificate"), _content(folder, user, "client-key")
    if certificate and key:
        # the ssl module reads them from files only; this one is private and deleted at once
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(certificate + "\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _content(folder: Path, holder: dict[str, Any], key: str) -> str:
    """Return the content of a file or of base64 data; empty if there is neither."""
    if data := holder.get(f"{key}-data"):
        return base64.b64decode(data).decode()
    return (folder / holder[key]).read_text() if holder.get(key) else ""
