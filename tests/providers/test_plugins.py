# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Plugins that are installed and do not fit are refused at startup, with what is wrong about them."""

from __future__ import annotations

import sys
from pathlib import Path

import aiohttp
import pytest

from clusterodm import auth, providers
from clusterodm.aio import Clock
from clusterodm.auth import make_authenticator
from clusterodm.core.errors import ConfigError
from clusterodm.plugins import PluginContext, check_version
from clusterodm.providers import make_provider
from clusterodm.settings import load_settings

COMPLETE = """
    def locations(self): return ("here",)
    def bootstrap(self, name, offering, *, token): return token
    async def check(self): ...
    async def create(self, spec): ...
    async def get(self, machine_id, location): ...
    async def list_machines(self, cluster): return []
    async def delete(self, machine): ...
"""
CODE = f"""
from clusterodm.auth import Authenticator, Grant
from clusterodm.providers import Provider, ProviderConfig, read_entry

class Base(Provider):
    def __init__(self, entry, context): super().__init__(read_entry(ProviderConfig, entry))

class Complete(Base): {COMPLETE}
class Newer(Complete): api_version = "1.1"
class Odd(Complete): api_version = 1
class Lacking(Base):
    def locations(self): return ()
    async def check(self): ...
class Unrelated: {COMPLETE}

class Open(Authenticator):
    api_version = "1.0"
    def __init__(self, settings, context): ...
    async def grant(self, token): return Grant(owner=token)
class Other(Open): api_version = "2.0"
class NoGrant(Authenticator):
    def __init__(self, settings, context): ...
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package as far as Python's import system and metadata see it."""
    (tmp_path / "outside.py").write_text(CODE)
    metadata = tmp_path / "outside-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    names = {"providers": ["Complete", "Newer", "Odd", "Lacking", "Unrelated", "Missing"]}
    names["authenticators"] = ["Open", "Other", "NoGrant"]
    points = [
        f"[clusterodm.{group}]\n" + "".join(f"{name.lower()} = outside:{name}\n" for name in each)
        for group, each in names.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(points) + "broken = nowhere_at_all:Open\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "outside", raising=False)


async def provider(name: str) -> providers.Provider:
    async with aiohttp.ClientSession() as session:
        entry = {"provider": name, "imageSizeMapping": [{"maxImages": 1, "slug": "s"}]}
        return make_provider(entry, PluginContext(session=session, clock=Clock()))


async def authenticator(name: str, folder: Path) -> auth.Authenticator:
    settings = load_settings({"data_dir": folder / "data", "cloud_provider": name}, environ={})
    async with aiohttp.ClientSession() as session:
        return make_authenticator(settings, session, Clock())


async def test_a_class_without_a_version_was_written_for_the_first_one() -> None:
    assert [offering.location for offering in (await provider("complete")).offerings()] == ["here"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "lacking",
            r"provider lacking \(outside:Lacking\) does not implement bootstrap, create, delete, get, list_mac",
        ),
        ("newer", r"provider newer .* was written for version 1\.1 of the plugin API; this ClusterODM offers 1\.0$"),
        ("odd", r"""declares api_version '1'; it must be like "1\.0"$"""),
        ("unrelated", r"provider unrelated .* is not a subclass of clusterodm\.providers\.Provider$"),
        ("missing", r"provider missing .* cannot be imported: .*Missing"),
        ("complet", r"unknown provider complet; did you mean complete\?$"),
        ("xyzzy", r"unknown provider xyzzy; there are aws, command, .*lacking"),
    ],
)
async def test_a_provider_that_does_not_fit_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        await provider(name)


async def test_an_authenticator_from_outside_is_used(tmp_path: Path) -> None:
    grant = await (await authenticator("open", tmp_path)).grant("ann")
    assert grant is not None
    assert grant.owner == "ann"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nogrant", r"cloud-provider nogrant \(outside:NoGrant\) does not implement grant$"),
        ("other", r"was written for version 2\.0 of the plugin API; this ClusterODM offers 1\.0$"),
        ("broken", r"cloud-provider broken .* cannot be imported: No module named 'nowhere_at_all'$"),
    ],
)
async def test_an_authenticator_that_does_not_fit_is_refused(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        await authenticator(name, tmp_path)


@pytest.mark.parametrize(
    ("written_for", "offered", "fits"),
    [
        ("1.0", "1.0", True),
        ("1.0", "1.7", True),
        ("1.9", "1.10", True),
        ("1.10", "1.9", False),
        ("1.0", "2.0", False),
        ("2.0", "1.9", False),
        ("1", "1.0", False),
        ("", "1.0", False),
        (None, "1.0", False),
        ("1.0.0", "1.0", False),
    ],
)
def test_a_plugin_fits_the_same_major_and_a_minor_version_that_is_not_newer(
    written_for: object, offered: str, fits: bool
) -> None:
    if fits:
        check_version(written_for, offered, "x")
    else:
        with pytest.raises(ConfigError, match=r"^x "):
            check_version(written_for, offered, "x")
