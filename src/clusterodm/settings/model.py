# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""All settings: one model makes flags, environment variables, JSON keys, `--help` and the reference page.

The names are those of the original, so that its command lines and configuration files keep working.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
)

from clusterodm.core.effects import NEEDS
from clusterodm.core.errors import ConfigError
from clusterodm.core.forwarding import FOR, FORWARDED, KNOWN, PROTO
from clusterodm.core.nodes import parse_address
from clusterodm.core.quota import parse_quota

ENV_PREFIX: Final = "CLUSTERODM_"


def _split_commas(value: Any) -> Any:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return value
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


Port = Annotated[int, Field(ge=0, le=65535)]
#: Empty means no file, as in `${VARIABLE:-}` of a compose file and in the JSON file of the original.
File = Annotated[Path | None, BeforeValidator(lambda value: value or None)]
Words = Annotated[list[str], BeforeValidator(_split_commas)]


class Settings(BaseModel):
    """Settings of `clusterodm serve`, in order of precedence: flags, environment, JSON file, defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    port: Port = Field(3000, description="Port for clients.")
    host: str = Field("0.0.0.0", description="Address to bind the client ports to.")  # noqa: S104 - a public service
    secure_port: Port = Field(
        0,
        description="Separate port for HTTPS while --port stays plain HTTP; 0: with a certificate, --port itself "
        "serves HTTPS.",
    )
    ssl_key: str = Field("", description="Private key for HTTPS (PEM file).")
    ssl_cert: str = Field("", description="Certificate chain for HTTPS (PEM file).")
    admin_host: str = Field(
        "127.0.0.1",
        description="Address to bind the admin ports to; any but loopback requires --admin-pass or --admin-pass-file.",
    )
    admin_cli_port: Port = Field(8080, description="Port of the admin shell (TCP); 0 disables it.")
    admin_web_port: Port = Field(10000, description="Port of the admin page and API; 0 disables it.")
    admin_pass: SecretStr = Field(
        SecretStr(""), description="Password of the admin shell, page and API (user admin); empty: no password."
    )
    admin_pass_file: File = Field(
        None,
        description="File to read the admin password from if --admin-pass is empty, relative to the data folder. If "
        "it does not exist, a password is generated, saved there and printed once.",
    )
    lease_token: SecretStr = Field(
        SecretStr(""), description="Token that lets nodes register themselves; it grants nothing else."
    )
    log_level: Literal["silly", "debug", "verbose", "info", "warn", "error"] = Field(
        "info", description="Log level: silly, debug, verbose, info, warn or error."
    )
    log_file: str = Field(
        "logs/clusterodm.log",
        description="Rotating log file in JSON lines, relative to the data folder; empty: none.",
    )
    access_log: str = Field(
        "",
        description="Rotating file of all client and operator requests in JSON lines, without tokens, relative to the "
        "data folder; -: write them to the log; empty: none.",
    )
    debug: bool = Field(False, description="Log everything regardless of --log-level, with tracebacks.")
    cloud_provider: str = Field(
        "local",
        description="Authenticator: local (open, or a single --token), tokens (--tokens-file), lightning, "
        "lightningdev, or an installed plugin.",
    )
    lightning_url: str = Field("https://webodm.net/r", description="URL of the service for lightning and lightningdev.")
    tokens_file: File = Field(
        None,
        description="TOML file of owners with their tokens, limits, priority and share; reloaded when it changes.",
    )
    token: SecretStr = Field(SecretStr(""), description="Token that every client must send; empty: no authentication.")
    asr: File = Field(
        None,
        description="Autoscaler configuration (JSON, compatible with the original): where to create machines on "
        "demand.",
    )
    machine_poll_interval: float = Field(
        5.0, gt=0, description="Seconds between polls of machines that are booting, being deleted, or may be reclaimed."
    )
    public_address: str = Field(
        "", description="URL at which clients and nodes reach the cluster, such as http://maps.example:3000."
    )
    trusted_proxies: Words = Field(
        default_factory=list,
        description="Addresses or networks (10.0.0.0/8) of reverse proxies whose --proxy-headers are trusted, "
        "separated by commas.",
    )
    proxy_headers: Words = Field(
        default_factory=lambda: [FOR, PROTO],
        description="Headers that every trusted proxy overwrites or removes: x-forwarded-for, x-forwarded-proto, "
        "x-forwarded-host; or forwarded alone. Other headers are never trusted.",
    )
    splitmerge: bool = Field(
        True,
        description="Distribute split-merge jobs over the cluster; --no-splitmerge disables this and rejects seed.zip.",
    )
    upload_max_speed: int = Field(
        0, ge=0, description="Limit in bytes per second for all transfers to nodes together; 0: no limit."
    )
    downloads_from_s3: str = Field("", description="URL prefix to redirect downloads to (PREFIX/uuid/asset).")
    flood_limit: int = Field(
        0,
        ge=0,
        description="Concurrent uploads per caller; an upload that is idle for 15 minutes does not count; 0: no "
        "limit. A caller is the owner of a token; with a shared token or none, it is an address (for "
        "IPv6, a /64 network), and each process counts separately.",
    )
    stale_uploads_timeout: int = Field(
        0,
        ge=0,
        description="Hours without data after which an upload is discarded; 0: 48 hours. When the spool is full, ten "
        "minutes are enough.",
    )
    data_dir: Path = Field(Path("data"), description="Folder for all persistent data.")
    database_url: SecretStr = Field(
        SecretStr(""),
        description="PostgreSQL database shared by several replicas (postgresql+asyncpg://user:password@host/name), "
        "which also share the data folder; empty: an SQLite database in the data folder, for a single "
        "process.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Worker processes on this host that share its ports, to use several cores; more than one requires "
        "--database-url.",
    )
    node: Words = Field(
        default_factory=list,
        description="A node to use from the start (host:port or URL); may be repeated or separated by commas.",
    )
    nodes_file: File = Field(
        None, description="File of nodes, as nodes.json or one host:port per line; watched for changes."
    )
    nodes_dns: str = Field(
        "", description="DNS name, as host:port or URL, each of whose addresses is a node; resolved every two seconds."
    )
    nodes_ca: File = Field(
        None, description="Certificate authorities (PEM file) for nodes with HTTPS, in addition to those of the system."
    )
    node_lost_after: float = Field(
        600.0, gt=0, description="Seconds without a response from a node after which its tasks are retried elsewhere."
    )
    node_poll_interval: float = Field(
        5.0, gt=0, description="Seconds between polls of a node; three times as long while there are no tasks."
    )
    task_poll_interval: float = Field(
        2.0, gt=0, description="Seconds between polls of a running task; longer with many tasks."
    )
    priority_ageing: float = Field(
        60.0, gt=0, description="Minutes of waiting that raise a task's priority by one, so that no task starves."
    )
    max_attempts: int = Field(3, ge=1, description="Attempts on nodes after which a task fails.")
    max_sending: int = Field(4, ge=1, description="Tasks whose files are sent to nodes concurrently.")
    prefetch: int = Field(
        4,
        ge=0,
        le=1000,
        description="Uploads whose files are prefetched to a free node before their commit, concurrently; 0: none.",
    )
    parallel_uploads: int = Field(4, ge=1, le=32, description="Connections to a node for the files of one task.")
    results: Literal["stream", "keep"] = Field(
        "stream",
        description="stream: results stay on the node and are streamed from there; keep: copy them into the data "
        "folder.",
    )
    results_from_s3: Literal["stream", "redirect"] = Field(
        "stream",
        description="How clients get results that nodes of the autoscaler have uploaded to a bucket: stream: through "
        "the cluster; redirect: from the bucket, by a signed URL that is valid for some hours.",
    )
    keep_finished: float = Field(
        720.0, gt=0, description="Hours to keep a finished task, its console output and its kept results."
    )
    zipurl_max_size: int = Field(
        107_374_182_400,
        gt=0,
        description="Maximum bytes of a zipurl, a zip of photos or a seed.zip, packed and unpacked.",
    )
    zipurl_allow_private: bool = Field(
        False, description="Allow zipurl to point to private, loopback and link-local addresses."
    )
    webhook_allow_private: bool = Field(
        False, description="Allow owners' webhooks to point to private, loopback and link-local addresses."
    )
    upload_idle_timeout: float = Field(
        120.0, gt=0, description="Seconds without data after which an upload or a download is aborted."
    )
    connection_idle_timeout: float = Field(
        75.0, gt=0, description="Seconds without a complete request after which a client's connection is closed."
    )
    fast_paths: Literal["on", "off"] = Field(
        "on",
        description="on: polling requests, large uploads and downloads bypass the web server to save CPU; off: all go "
        "through the web server, to isolate faults of these paths.",
    )
    max_files: int = Field(100_000, ge=1, description="Maximum number of files of one task.")
    spool_max: str = Field(
        "90%",
        description="Limit for uploads: a share of the disk in use, whoever uses it, or a total size of held files "
        "such as 500GB.",
    )
    shutdown_delay: float = Field(
        0.0,
        ge=0,
        description="Seconds after SIGTERM during which requests are still accepted while /healthz returns 503, so "
        "that load balancers can drain.",
    )
    shutdown_grace: float = Field(20.0, ge=0, description="Seconds that requests have to complete after SIGTERM.")

    release_running_files: bool = Field(
        False,
        description="When the spool is full, also release the held files of running tasks, after those of abandoned "
        "uploads and finished tasks; such a task fails if its node is lost.",
    )

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: SecretStr) -> SecretStr:
        url = re.sub(r"^postgres(ql)?(\+asyncpg)?://", "postgresql+asyncpg://", value.get_secret_value())
        if url and not re.fullmatch(r"postgresql\+asyncpg://[^\s]+", url):
            raise ValueError("must be a URL such as postgresql+asyncpg://user:password@host/name")
        return SecretStr(url)

    @field_validator("public_address")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/?#]+/?", value):
            raise ValueError("must be a URL such as http://maps.example:3000")
        return value.rstrip("/")

    @field_validator("lightning_url")
    @classmethod
    def _check_service(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[^\s?#@]+", value):
            raise ValueError("must be a URL such as https://webodm.net/r")
        return value.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _check_networks(cls, value: list[str]) -> list[str]:
        for text in value:
            ip_network(text, strict=False)
        return value

    @field_validator("proxy_headers")
    @classmethod
    def _check_headers(cls, value: list[str]) -> list[str]:
        names = [text.lower() for text in value]
        if unknown := sorted(set(names) - set(KNOWN)):
            raise ValueError(f"must be of {', '.join(KNOWN)}, not {unknown[0][:50]}")
        if FORWARDED in names and len(names) > 1:
            raise ValueError("forwarded must be alone: two headers for the same fact may disagree")
        return names

    @field_validator("nodes_dns")
    @classmethod
    def _check_nodes_dns(cls, value: str) -> str:
        try:
            return value and str(parse_address(value)) and value
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @field_validator("spool_max")
    @classmethod
    def _check_quota(cls, value: str) -> str:
        parse_quota(value)
        return value

    @property
    def tls(self) -> bool:
        """True if clients are served over HTTPS."""
        return bool(self.ssl_cert and self.ssl_key)


def flag_name(field: str) -> str:
    """Return the `--flag` and JSON key (without leading dashes) of a field."""
    return field.replace("_", "-")


def env_name(field: str) -> str:
    """Return the environment variable of a field."""
    return ENV_PREFIX + field.upper()


def described(name: str) -> str:
    """Return the description of a setting with its requirement."""
    text = Settings.model_fields[name].description or ""
    return f"{text} It {NEEDS[name].text}." if name in NEEDS else text


def is_switch(name: str) -> bool:
    """Return True if a setting is boolean, so that a `no-` prefix negates it."""
    return name in Settings.model_fields and Settings.model_fields[name].annotation is bool
