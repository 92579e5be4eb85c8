# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""mkdocs hooks: make links work on the site as in the repository.

Pages from above `docs` become pages of the site; links to files that are not pages become their text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TOP = Path(__file__).parents[1]
#: Pages above `docs`, by their name on the site.
ABOVE = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from above `docs`."""
    for name, source in ABOVE.items():
        files.append(File.generated(config, name, content=(TOP / source).read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Rewrite links for the site."""
    source = ABOVE.get(page.file.src_uri) or f"docs/{page.file.src_uri}"
    here = posixpath.dirname(source)
    names = {above: name for name, above in ABOVE.items()}

    def rewritten(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(here, target))
        if path in names:
            page_path = names[path]
        elif path.startswith("docs/") and not path.startswith("docs/examples"):
            page_path = path.removeprefix("docs/")
        else:
            return text
        relative = posixpath.relpath(page_path, posixpath.dirname(page.file.src_uri) or ".")
        return f"{mark}[{text}]({relative}{anchor or ''})"

    return _LINK.sub(rewritten, markdown)
