# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""All settings: one model makes flags, environment variables, JSON keys, `--help` and the reference page.

The names are those of the original, so that its command lines and configuration files go on working.
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
#: An empty text is no file, as `${VARIABLE:-}` of a compose file and the JSON file of the original have it.
File = Annotated[Path | None, BeforeValidator(lambda value: value or None)]
Words = Annotated[list[str], BeforeValidator(_split_commas)]


class Settings(BaseModel):
    """Settings of `clusterodm serve`, strongest first: flags, environment, JSON file, defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    port: Port = Field(3000, description="Port that clients talk to.")
    host: str = Field("0.0.0.0", description="Address that the ports for clients bind to.")  # noqa: S104 - a public service
    secure_port: Port = Field(
        0, description="Port for HTTPS, while --port stays plain; 0: with a certificate --port itself speaks HTTPS."
    )
    ssl_key: str = Field("", description="File of the private key for HTTPS (PEM).")
    ssl_cert: str = Field("", description="File of the certificate chain for HTTPS (PEM).")
    admin_host: str = Field(
        "127.0.0.1",
        description="Address that the admin ports bind to; one that others reach needs --admin-pass or "
        "--admin-pass-file.",
    )
    admin_cli_port: Port = Field(8080, description="Port of the admin shell (TCP); 0: none.")
    admin_web_port: Port = Field(10000, description="Port of the admin page and API; 0: none.")
    admin_pass: SecretStr = Field(
        SecretStr(""), description="Password of the admin shell, page and API (user admin); empty: none is asked for."
    )
    admin_pass_file: File = Field(
        None,
        description="File with that password where --admin-pass is empty, below the data folder unless it is absolute; "
        "where there is no such file, a password is made, kept in it and printed once.",
    )
    lease_token: SecretStr = Field(
        SecretStr(""), description="Token with which nodes may register themselves, and nothing else."
    )
    log_level: Literal["silly", "debug", "verbose", "info", "warn", "error"] = Field(
        "info", description="How much to log: silly, debug, verbose, info, warn or error."
    )
    log_file: str = Field(
        "logs/clusterodm.log",
        description="Rotating file of log lines as JSON, below the data folder unless it is absolute; empty: none.",
    )
    access_log: str = Field(
        "",
        description="Rotating file of all requests of clients and operators, a line of JSON each and without tokens, "
        "below the data folder unless it is absolute; -: with the other log lines; empty: none.",
    )
    debug: bool = Field(False, description="Log everything, whatever --log-level says, and show tracebacks.")
    cloud_provider: str = Field(
        "local",
        description="Who decides about tokens: local (open, or one --token), tokens (--tokens-file), lightning, "
        "lightningdev, or one that was installed.",
    )
    lightning_url: str = Field(
        "https://webodm.net/r", description="Where the service of lightning and lightningdev is."
    )
    tokens_file: File = Field(
        None,
        description="TOML file of owners: tokens, limits, priority, share; read again when it changes.",
    )
    token: SecretStr = Field(SecretStr(""), description="Token that every client must send; empty: open to all.")
    asr: File = Field(
        None, description="File of the autoscaler (JSON, as of the original): where machines are created on demand."
    )
    machine_poll_interval: float = Field(
        5.0, gt=0, description="Seconds between two looks at machines that boot, end, or may be taken away."
    )
    public_address: str = Field(
        "", description="URL under which clients and nodes reach us, such as http://maps.example:3000."
    )
    trusted_proxies: Words = Field(
        default_factory=list,
        description="Addresses or networks (10.0.0.0/8) of proxies in front of us, whose --proxy-headers are "
        "believed; commas between them.",
    )
    proxy_headers: Words = Field(
        default_factory=lambda: [FOR, PROTO],
        description="Headers that every trusted proxy sets or removes, whatever a client sent: x-forwarded-for, "
        "x-forwarded-proto, x-forwarded-host; or forwarded alone. Others are never believed.",
    )
    splitmerge: bool = Field(
        True, description="Offer the cluster to split-merge jobs; --no-splitmerge: do not, and refuse seed.zip."
    )
    upload_max_speed: int = Field(0, ge=0, description="Bytes per second to nodes, over all transfers; 0: no limit.")
    downloads_from_s3: str = Field("", description="URL prefix that downloads are redirected to (PREFIX/uuid/asset).")
    flood_limit: int = Field(
        0,
        ge=0,
        description="Uploads in progress that one caller may have at a time; one that rests for a quarter of an hour "
        "does not count; 0: no limit. A caller is the owner of a token; where all share one token, or none is needed, "
        "an address (of IPv6, a /64 network), and each process counts its own.",
    )
    stale_uploads_timeout: int = Field(
        0,
        ge=0,
        description="Hours without a byte after which an upload is given up; 0: 48 hours. When room is short, ten "
        "minutes are enough.",
    )
    data_dir: Path = Field(Path("data"), description="Folder for everything that is kept.")
    database_url: SecretStr = Field(
        SecretStr(""),
        description="PostgreSQL that several replicas share (postgresql+asyncpg://user:password@host/name), together "
        "with the data folder; empty: a database in the data folder, for one process.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes on this host that share its ports, for several cores; more than one needs "
        "--database-url.",
    )
    node: Words = Field(
        default_factory=list,
        description="A node to use from the start (host:port or URL); may be repeated, or separated by commas.",
    )
    nodes_file: File = Field(
        None, description="File of nodes that is watched: nodes.json's form, or host:port a line; they come and go."
    )
    nodes_dns: str = Field(
        "", description="Name whose every address is a node, as host:port or URL; looked up every two seconds."
    )
    nodes_ca: File = Field(
        None, description="File of certificate authorities (PEM) for nodes with HTTPS, beside those of the system."
    )
    node_lost_after: float = Field(
        600.0, gt=0, description="Seconds without an answer after which a node's task goes elsewhere."
    )
    node_poll_interval: float = Field(
        5.0, gt=0, description="Seconds between two looks at a node; three times that while there is no task."
    )
    task_poll_interval: float = Field(
        2.0, gt=0, description="Seconds between two looks at a running task; longer with many."
    )
    priority_ageing: float = Field(
        60.0, gt=0, description="Minutes of waiting that count as much as one step of priority; nobody waits for ever."
    )
    max_attempts: int = Field(3, ge=1, description="Tries on nodes after which a task is given up.")
    max_sending: int = Field(4, ge=1, description="Tasks whose files are sent to nodes at the same time.")
    prefetch: int = Field(
        4,
        ge=0,
        le=1000,
        description="Uploads whose files are sent to a free node before their commit, at the same time; 0: none.",
    )
    parallel_uploads: int = Field(4, ge=1, le=32, description="Connections to the node for the files of one task.")
    results: Literal["stream", "keep"] = Field(
        "stream", description="stream: results stay on the node and pass through; keep: pull them into the data folder."
    )
    results_from_s3: Literal["stream", "redirect"] = Field(
        "stream",
        description="How clients get results that nodes of the autoscaler have put into a bucket: stream: through us; "
        "redirect: from there, by an address that is good for some hours.",
    )
    keep_finished: float = Field(
        720.0, gt=0, description="Hours that a finished task, its console and its kept results stay."
    )
    zipurl_max_size: int = Field(
        107_374_182_400, gt=0, description="Bytes that a zipurl, a zip of photos or a seed.zip may have, unpacked too."
    )
    zipurl_allow_private: bool = Field(
        False, description="Allow zipurl to lead to private, loopback and link-local addresses."
    )
    webhook_allow_private: bool = Field(
        False, description="Allow owners' webhooks to lead to private, loopback and link-local addresses."
    )
    upload_idle_timeout: float = Field(
        120.0, gt=0, description="Seconds without a byte after which an upload or a download is cut."
    )
    connection_idle_timeout: float = Field(
        75.0, gt=0, description="Seconds without a whole request after which a client's connection is closed."
    )
    fast_paths: Literal["on", "off"] = Field(
        "on",
        description="on: polling requests, large uploads and downloads take ways around the web server that cost less "
        "CPU; off: all go through the web server, to find out if a fault comes from one of these ways.",
    )
    max_files: int = Field(100_000, ge=1, description="Files that one task may have.")
    spool_max: str = Field(
        "90%",
        description="Room for uploads: a share of the disk, whoever fills it, or a size of held files such as 500GB.",
    )
    shutdown_delay: float = Field(
        0.0,
        ge=0,
        description="Seconds after SIGTERM in which requests are still taken while /healthz says 503, so that a "
        "balancer looks elsewhere first.",
    )
    shutdown_grace: float = Field(20.0, ge=0, description="Seconds that requests get to end after SIGTERM.")

    release_running_files: bool = Field(
        False,
        description="When room for uploads is short, give up the held files of running tasks, too, after abandoned "
        "uploads and leftovers of tasks that are over; such a task fails if its node is lost.",
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
            raise ValueError("forwarded goes alone: two headers that say the same may disagree")
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
    """`--flag` and JSON key (without dashes in front) of a field."""
    return field.replace("_", "-")


def env_name(field: str) -> str:
    """Environment variable of a field."""
    return ENV_PREFIX + field.upper()


def described(name: str) -> str:
    """What a setting does, and what it needs."""
    text = Settings.model_fields[name].description or ""
    return f"{text} It {NEEDS[name].text}." if name in NEEDS else text


def is_switch(name: str) -> bool:
    """True if a setting is yes or no, so that `no-` before its name turns it round."""
    return name in Settings.model_fields and Settings.model_fields[name].annotation is bool
