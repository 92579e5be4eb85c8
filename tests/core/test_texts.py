# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names, uuids, ranges, addresses and options: everything that is read from text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.cluster import cluster_info
from clusterodm.core.errors import BadRequest, ConfigError, FetchFailed, Throttled, Unreachable
from clusterodm.core.ids import is_task_id, parse_set_uuid
from clusterodm.core.names import MAX_NAME_BYTES, is_archive, is_image, next_name, printable, safe_name
from clusterodm.core.nodes import NodeInfo, make_address, parse_address


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("DJI_0001.JPG", "DJI_0001.JPG"),
        ("../../etc/passwd", "passwd"),
        ("a\\b.jpg", "b.jpg"),
        ("a/b\\c.jpg", "c.jpg"),
        ("dir/", "dir"),
        ("///", "unnamed"),
        ("a\0b\n.jpg", "a_b_.jpg"),
        ("body.json", "_body.json"),
        ("", "unnamed"),
        (".", "_."),
        ("x/..", "._."),
        ("ümläut.jpg", "ümläut.jpg"),
        ("\u202egpj.exe", "_gpj.exe"),
    ],
)
def test_names_are_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@given(st.text(max_size=400))
def test_a_safe_name_is_one_path_component_that_fits_and_stays(name: str) -> None:
    safe = safe_name(name)
    assert safe not in ("", ".", "..", "body.json")
    assert "/" not in safe
    assert "\0" not in safe
    assert len(safe.encode()) <= MAX_NAME_BYTES
    assert safe_name(safe) == safe


def test_a_long_name_keeps_its_extension() -> None:
    assert safe_name("x" * 300 + ".jpg").endswith("x.jpg")
    assert safe_name("ü" * 300 + ".jpg").endswith("ü.jpg")
    assert not safe_name("x." + "y" * 300).endswith(".")


@pytest.mark.parametrize(
    ("name", "following"), [("a.jpg", "a_.jpg"), ("a_.jpg", "a__.jpg"), ("README", "README_"), (".hidden", ".hidden_")]
)
def test_another_file_of_the_same_name_gets_an_underscore(name: str, following: str) -> None:
    assert next_name(name) == following


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.JPG", True),
        ("a.tif", True),
        ("gcp_list.txt", False),
        ("seed.zip", False),
        ("align.laz", False),
        ("v.mp4", True),
    ],
)
def test_control_files_are_no_images(name: str, image: bool) -> None:
    assert is_image(name) is image


def test_a_seed_is_no_archive_of_photos() -> None:
    assert [is_archive(name) for name in ("photos.ZIP", "seed.zip", "a.jpg")] == [True, False, False]


@pytest.mark.parametrize("version", "1234567")
def test_uuids_of_all_versions_are_taken(version: str) -> None:
    uuid = f"01890a5d-ac96-{version}74b-bcce-b302099a8057"
    assert parse_set_uuid(uuid.upper()) == uuid


@pytest.mark.parametrize("text", ["abc", "", "../..", "01890a5d-ac96-074b-bcce-b302099a8057", "x" * 5000])
def test_other_texts_are_no_uuids(text: str) -> None:
    assert not is_task_id(text)
    with pytest.raises(BadRequest, match="Invalid set-uuid"):
        parse_set_uuid(text)


@pytest.mark.parametrize(
    ("text", "url", "token"),
    [
        ("localhost:3001", "http://localhost:3001", ""),
        ("http://n:80/?token=a%26b", "http://n:80", "a&b"),
        ("n:443", "https://n:443", ""),
        ("https://n", "https://n:443", ""),
        ("http://n", "http://n:80", ""),
        ("n", "http://n:3000", ""),
        ("[::1]:3000", "http://[::1]:3000", ""),
    ],
)
def test_node_addresses(text: str, url: str, token: str) -> None:
    address = parse_address(text)
    assert (address.url, address.token) == (url, token)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "reads host:port"),
        ("ftp://n:1", "reads host:port"),
        ("n:99999", "bad port"),
        ("http://:80", "reads host:port"),
        ("n:x", "bad port"),
        ("http://n:3000/odm/", "leave out '/odm/'"),
        ("n:3000/odm", "leave out '/odm'"),
        ("http://n:3000#x", "leave out '#'"),
        ("http://me:hush-pass@n:3000", "what stands before the @"),
        ("http://n:3000/?tokn=x", "not 'tokn'"),
        *((f"{host}:3000", "bad address") for host in ("127.1", "0", "2130706433", "0x7f.1", "127.0.0.01", "a.b.300")),
    ],
)
def test_bad_node_addresses_are_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_address(text)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("localhost:3000", "127.0.0.1:3000", True),
        ("LOCALHOST.:3000", "[::1]:3000", True),
        ("[::ffff:127.0.0.1]:3000", "localhost:3000", True),
        ("Node.Example:3000", "node.example.:3000", True),
        ("[fe80::0001]:3000", "[FE80::1]:3000", True),
        ("0.0.0.0:3000", "localhost:3000", True),
        ("[::]:3000", "[::ffff:127.0.0.1]:3000", True),
        ("localhost:3000", "localhost:3001", False),
        ("127.0.0.1:3000", "127.0.0.2:3000", False),
        ("localhost:3000", "localhost.example:3000", False),
    ],
)
def test_two_ways_to_write_a_place_are_one_node(one: str, other: str, same: bool) -> None:
    assert (parse_address(one).place == parse_address(other).place) is same


@pytest.mark.parametrize(("host", "port"), [("", 1), ("a b", 1), ("n", 0), ("n", 70000), ("a:b", 1), ("1::2::3", 1)])
def test_bad_parts_of_addresses_are_refused(host: str, port: int) -> None:
    with pytest.raises(ConfigError):
        make_address(host, port)


def test_a_host_may_be_a_url() -> None:
    assert make_address("https://n", 8443, "t").url == "https://n:8443"
    assert make_address("fe80::1", 3000).url == "http://[fe80::1]:3000"
    assert make_address("http://n/?token=t", 3000).token == "t"
    with pytest.raises(ConfigError, match="leave out"):
        make_address("http://n/odm", 3000)


def test_an_address_says_whether_its_certificate_is_verified() -> None:
    assert parse_address("https://host:3000/?insecure=true&token=hush-x").insecure
    assert not parse_address("https://host:3000/?insecure=false").insecure
    assert make_address("https://host/?insecure=true", 3000).insecure
    with pytest.raises(ConfigError, match="insecure is true or false"):
        parse_address("https://host:3000/?insecure=yes")


def test_what_is_printed_stays_on_its_line() -> None:
    assert printable("a\x1b[2J\r\n\u202eb é") == "a [2J   b é"


def test_a_provider_may_say_when_to_ask_again() -> None:
    assert Unreachable("busy", until=3.0).until == Throttled("slow", until=3.0).until == 3.0


def test_a_token_is_in_no_text_of_an_address() -> None:
    address = make_address("n", 3000, "secret")
    assert "secret" not in f"{address} {address!r} {address.url}"


def test_the_cluster_says_the_sum_of_its_online_nodes() -> None:
    nodes = [NodeInfo(max_images=5, max_parallel_tasks=2, cpu_cores=4), NodeInfo(max_images=9, cpu_cores=8)]
    info = cluster_info(nodes, NodeInfo(engine="odx"), 7)
    assert (info["maxImages"], info["maxParallelTasks"], info["cpuCores"], info["taskQueueCount"]) == (9, 3, 12, 7)
    assert info["engine"] == "odx"
    assert cluster_info([*nodes, NodeInfo()], NodeInfo(), 0)["maxImages"] is None
    assert cluster_info([], NodeInfo(cpu_cores=3), 0)["cpuCores"] == 3


def test_a_failed_fetch_says_whether_it_is_final() -> None:
    assert FetchFailed("gone", final=True).final
    assert str(FetchFailed("later", final=False)) == "later"
