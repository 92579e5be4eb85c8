# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What plugins build on stands in docs/plugins.md, signature by signature, and nothing else does."""

from __future__ import annotations

import re

import pytest

from clusterodm import auth, providers
from clusterodm.testing import contract
from tests.docs.signatures import signature
from tests.docs.test_docs import DOCS

EXPORTED = {
    **{("auth", name): getattr(auth, name) for name in auth.__all__},
    **{("providers", name): getattr(providers, name) for name in providers.__all__},
    **{("contract", name): getattr(contract, name) for name in contract.__all__ if name.endswith("Backend")},
}
#: A heading of the page to each package, and to what both export.
HEADINGS = {
    "providers": "### `clusterodm.providers`",
    "auth": "### `clusterodm.auth`",
    "both": "### Both",
    "contract": "### `clusterodm.testing.contract`",
}


def section(package: str) -> str:
    """Return the blocks of Python below the heading of a package."""
    page = (DOCS / "plugins.md").read_text()
    text = page.split(HEADINGS[package] + "\n", 1)[1].split("\n#", 1)[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def package_of(package: str, name: str) -> str:
    """Return the heading below which a name stands."""
    shared = getattr(auth, name, None) is getattr(providers, name, None)
    return "both" if shared and ("auth", name) in EXPORTED and ("providers", name) in EXPORTED else package


@pytest.mark.parametrize(("package", "name"), EXPORTED, ids=".".join)
def test_a_signature_that_plugins_build_on_changes_with_its_documentation(package: str, name: str) -> None:
    text = signature(name, EXPORTED[package, name])
    assert f"{text}\n" in section(package_of(package, name)), f"docs/plugins.md lacks:\n\n{text}"


@pytest.mark.parametrize("package", HEADINGS)
def test_what_is_documented_is_exported(package: str) -> None:
    names = set(re.findall(r"^(?:class |def |async def )?(\w+)", section(package), re.MULTILINE))
    assert names == {name for each, name in EXPORTED if package_of(each, name) == package}
