# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm doctor` on certificates, tokens and nodes: what it finds, and that it says what to do."""

from __future__ import annotations

import json
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from clusterodm.commands.doctor import _row, findings
from clusterodm.commands.finding import Finding
from clusterodm.core.nodes import Origin, parse_address
from tests.admin.support import start
from tests.processes import free_port
from tests.support import Rig

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own ports and folder."""
    for name in ("PORT", "ADMIN_CLI_PORT", "ADMIN_WEB_PORT"):
        monkeypatch.setenv(f"CLUSTERODM_{name}", str(free_port()))
    monkeypatch.setenv("CLUSTERODM_DATA_DIR", str(tmp_path / "data"))


async def look(folder: Path, about: str, **settings: Any) -> list[Finding]:
    """What is found about something with these settings. Whatever is not well has something that can be done."""
    config = folder / "config.json"
    config.write_text(json.dumps({key.replace("_", "-"): value for key, value in settings.items()}))
    config.chmod(0o600)
    results = [each async for each in findings(config, None)]
    assert [each for each in results if (each.verdict == "ok") != (each.fix == "")] == []
    return [each for each in results if each.what.startswith(about)]


class Pair:
    """A certificate of an authority of the test's own, in files."""

    def __init__(self, folder: Path, **dates: Any) -> None:
        self.authority = trustme.CA()
        self.certificate = self.authority.issue_cert("maps.example", **dates)
        self.folder = folder
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.certificate.cert_chain_pems[0].write_to_path(self.cert)
        self.write_key(self.certificate.private_key_pem.bytes())

    def write_key(self, content: bytes) -> None:
        self.key.write_bytes(content)
        self.key.chmod(0o600)

    async def look(self, about: str = "--ssl", **settings: Any) -> list[tuple[str, str]]:
        defaults = {"ssl_cert": str(self.cert), "ssl_key": str(self.key), "secure_port": free_port()}
        return [(each.verdict, each.text) for each in await look(self.folder, about, **defaults | settings)]


def good(pair: Pair) -> None:
    pass


def of_another_key(pair: Pair) -> None:
    pair.write_key(trustme.CA().issue_cert("maps.example").private_key_pem.bytes())


def with_the_authority_first(pair: Pair) -> None:
    pair.cert.write_bytes(pair.authority.cert_pem.bytes() + pair.cert.read_bytes())


def with_an_encrypted_key(pair: Pair) -> None:
    key = load_pem_private_key(pair.key.read_bytes(), None)
    encryption = BestAvailableEncryption(b"hush-key")
    pair.write_key(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def of_no_form(pair: Pair) -> None:
    pair.cert.write_bytes(ssl.PEM_cert_to_DER_cert(pair.cert.read_text()))


def that_is_gone(pair: Pair) -> None:
    pair.cert.unlink()


UNTRUSTED = (
    "warning",
    "clients with the trust store of this machine refuse it: unable to get local issuer certificate",
)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (good, [("ok", "is valid until"), UNTRUSTED]),
        (of_another_key, [("error", "does not belong to the key")]),
        (with_the_authority_first, [("error", "the first certificate")]),
        (with_an_encrypted_key, [("error", "is encrypted")]),
        (of_no_form, [("error", "cannot be used")]),
        (that_is_gone, [("error", "cannot be read: No such file or directory")]),
    ],
)
async def test_a_certificate_is_checked(change: Any, expected: list[tuple[str, str]], tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    change(pair)
    verdicts = await pair.look()
    assert [verdict for verdict, _ in verdicts] == [verdict for verdict, _ in expected]
    assert [text for (_, text), (_, part) in zip(verdicts, expected, strict=True) if part not in text] == []


@pytest.mark.parametrize(
    ("begin", "end", "verdict", "text"),
    [
        (-80, 13.5, "warning", ", 13 days"),
        (-4, 2.6, "ok", ", 3 days"),  # good for a week only, as some authorities give them: nothing to do yet
        (-5, 1.4, "warning", ", 1 days"),
        (-90, -1, "error", "has expired"),
        (1, 90, "error", "is not valid yet"),
    ],
)
async def test_an_expiry_is_reported_in_time(begin: float, end: float, verdict: str, text: str, tmp_path: Path) -> None:
    pair = Pair(tmp_path, not_before=NOW + begin * DAY, not_after=NOW + end * DAY)
    verdicts = await pair.look()
    assert verdicts[0][0] == verdict
    assert text in verdicts[0][1]


async def test_a_certificate_is_for_the_name_that_clients_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(tmp_path)
    (tmp_path / "authority.pem").write_bytes(pair.authority.cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    assert [verdict for verdict, _ in await pair.look(public_address="https://maps.example")] == ["ok"]
    [(verdict, text)] = await pair.look(public_address="https://other.example")
    assert (verdict, text) == ("error", f"{pair.cert} is not for other.example (--public-address)")


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        ('[alice]\ntoken = "hush-alice"\n[bob]\ntoken = "hush-bob-"\n', 0o600, [("ok", "has 2 owners")]),
        (
            '[alice]\ntoken = "hush-same"\n[bob]\ntoken = "hush-same"\n',
            0o600,
            [("error", "has the same token as [alice]")],
        ),
        ("[alice\n", 0o600, [("error", "not valid TOML")]),
        ("", 0o600, [("warning", "names no owner")]),
        ('[alice]\ntoken = "hush-alice"\n', 0o644, [("warning", "can be read by every user"), ("ok", "has 1 owners")]),
        (None, 0, [("error", "cannot be read: No such file or directory")]),
    ],
)
async def test_the_tokens_of_owners_are_checked(
    content: str | None, mode: int, expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    results = await look(tmp_path, "--tokens-file", tokens_file=str(path), cloud_provider="tokens")
    assert [each.verdict for each in results] == [verdict for verdict, _ in expected]
    assert [each.text for each, (_, part) in zip(results, expected, strict=True) if part not in each.text] == []
    assert "hush" not in str(results)


async def test_nodes_are_tried_by_whatever_way_they_come(cluster: Rig) -> None:
    for _ in range(5):
        await cluster.add_node()
    own, listed, old, leased, added = (f"127.0.0.1:{port}" for port in cluster.ports)
    cluster.ports.clear()
    await start(cluster)
    registry = cluster.cluster.context.registry
    await registry.add(parse_address(added))
    await registry.add(parse_address(leased), origin=Origin.LEASE, lease_until=time.time() + 600)
    offline_address = f"127.0.0.1:{free_port()}"
    off = await registry.add(parse_address(offline_address))
    await registry.change(off, locked=True)
    host, _, port = old.partition(":")
    (cluster.folder / "data/nodes.json").write_text(json.dumps([{"hostname": host, "port": port, "token": ""}]))
    (cluster.folder / "nodes.txt").write_text(f"{listed}\n{own}\n")
    results = await look(
        cluster.folder,
        "node ",
        data_dir=str(cluster.folder / "data"),
        node=[own],
        nodes_file=str(cluster.folder / "nodes.txt"),
        nodes_dns=f"localhost:{own.partition(':')[2]}",
    )
    ways = {each.what: each.verdict for each in results if "::1" not in each.what}
    assert ways == {
        f"node {own} (--node)": "ok",
        f"node {listed} (--nodes-file)": "ok",
        f"node {old} (nodes.json)": "ok",
        f"node {leased} (database, lease)": "ok",
        f"node {added} (database, configured)": "ok",
        f"node {offline_address} (database, configured)": "warning",
    }


@pytest.mark.parametrize(
    ("settings", "verdict", "text"),
    [
        ({"nodes_file": "nodes.txt"}, "error", "nodes.txt: "),
        ({"nodes_file": "nothing.txt"}, "warning", "there is no nothing.txt"),
        ({"nodes_dns": "nodes.invalid:3000"}, "error", "nodes.invalid cannot be looked up: "),
        ({"nodes_ca": "nodes.txt"}, "error", "nodes.txt"),
    ],
)
async def test_an_unusable_list_of_nodes_is_reported(
    settings: dict[str, str], verdict: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nodes.txt").write_text("bad host:1\n")
    (tmp_path / "nodes.txt").chmod(0o600)
    [result] = await look(tmp_path, f"--{next(iter(settings)).replace('_', '-')}", **settings)
    assert result.verdict == verdict
    assert text in result.text


def test_what_a_file_says_is_shown_as_it_is() -> None:
    row = _row(Finding("--tokens-file", "error", "[bob] has the same token as [alice]", "name [bob] another"))
    assert row[2].plain == "[bob] has the same token as [alice]\n→ name [bob] another"


async def test_split_merge_jobs_whose_nodes_cannot_reach_the_cluster_are_found(cluster: Rig, tmp_path: Path) -> None:
    await cluster.add_node(seconds=600)
    api, _ = await start(cluster)
    await cluster.ready()
    split = json.dumps([{"name": "split", "value": "1"}])
    await api.create(2, options=split)
    folder = str(cluster.folder / "data")
    assert await look(tmp_path, "split-merge", data_dir=folder) == []
    await cluster.cluster.context.registry.add(parse_address("192.0.2.1:3000"))  # as an operator adds it
    await api.create(2, options=split)
    [result] = await look(tmp_path, "split-merge", data_dir=folder)
    why = f"2 jobs cannot send their submodels to {api.url}: nodes on other hosts cannot reach it"
    assert (result.verdict, result.text) == ("error", why)
