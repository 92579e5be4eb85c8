# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes: their addresses, and until when they are used."""

from __future__ import annotations

import pytest

from clusterodm.core.membership import DockerMachine, NodeEntry
from clusterodm.core.nodes import NodeRecord, is_loopback, make_address


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *[(host, True) for host in ("127.0.0.1", "localhost", "LOCALHOST.", "127.8.9.1", "::1")],
        *[(host, False) for host in ("10.0.0.1", "node.example", "2001:db8::1")],
    ],
)
def test_loopback_is_recognized_in_every_notation(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_ipv6_address_may_stand_in_brackets() -> None:
    assert make_address("[2001:db8::1]", 3000) == make_address("2001:db8::1", 3000)


@pytest.mark.parametrize(
    ("terms", "ends"), [({}, False), ({"lease_until": 9.0}, True), ({"ends_at": 9.0, "drain_before": 1.0}, True)]
)
def test_only_a_lease_or_a_known_end_limits_a_nodes_time(terms: dict[str, float], ends: bool) -> None:
    node = NodeRecord(id=1, address=make_address("node.example", 3000), **terms)  # type: ignore[arg-type]
    assert node.ends is ends


def test_an_entry_of_the_originals_file_keeps_its_token_and_how_its_certificate_is_checked() -> None:
    entry = NodeEntry(hostname="node.example", port=443, token=None, insecure=True)
    assert entry.address() == make_address("node.example", 443, insecure=True)


@pytest.mark.parametrize(
    ("docker_machine", "machine", "closed"),
    [(None, "", False), (DockerMachine("aws-7"), "aws-7", True), (DockerMachine(None), "node.example", True)],
)
def test_a_node_on_a_machine_of_docker_machine_takes_no_tasks(
    docker_machine: DockerMachine | None, machine: str, closed: bool
) -> None:
    entry = NodeEntry(hostname="node.example", port=3000, docker_machine=docker_machine)
    assert (entry.machine, entry.closed) == (machine, closed)
