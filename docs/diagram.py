# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Draw docs/images/imports.svg: the folders of the program and their imports."""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp

TOP = Path(__file__).parents[1]
_WIDTH, _ROW, _BOX, _MARGIN = 1080, 64, 34, 16
#: Horizontal offset between rows, so that lines that pass a box stay visible.
_SHIFT = 48
_STYLE = (
    "text{font:13px sans-serif;fill:#1d2b2b;text-anchor:middle}"
    "rect{fill:#eaf4f2;stroke:#4b8f86}path{fill:none;stroke:#4b8f86;opacity:.55}"
)


def layers() -> list[list[str]]:
    """Return the layers that `make check` enforces, top first."""
    settings = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["importlinter"]
    return [[part.strip() for part in row.split("|")] for row in settings["contracts"][0]["layers"]]


def imports() -> dict[str, set[str]]:
    """Return the direct imports of each part, without those that another one of them implies."""
    graph = grimp.build_graph("clusterodm", cache_dir=None)
    parts = [part for row in layers() for part in row]
    direct: dict[str, set[str]] = {part: set() for part in parts}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = [f"{name}.".split(".")[1] for name in (module, imported)]
            if all(name in direct for name in pair) and pair[0] != pair[1]:
                direct[pair[0]].add(pair[1])
    reached: dict[str, set[str]] = {}
    for part in reversed(parts):
        reached[part] = direct[part].union(*(reached.get(each, set()) for each in direct[part]))
    return {part: {x for x in direct[part] if not any(x in reached[y] for y in direct[part])} for part in direct}


def imports_svg() -> str:
    """Return the picture as SVG."""
    rows = layers()
    middle = {
        part: (
            round(_WIDTH * (place + 0.5) / len(row)) + _SHIFT * (number % 3 - 1) * (len(row) < 3),
            _MARGIN + number * _ROW + _BOX // 2,
        )
        for number, row in enumerate(rows)
        for place, part in enumerate(row)
    }
    height = 2 * _MARGIN + (len(rows) - 1) * _ROW + _BOX
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        "<title>Folders of ClusterODM and their imports</title>",
        f'<style>{_STYLE}</style><path d="M0 0H{_WIDTH}V{height}H0Z" style="fill:#fff;stroke:none;opacity:1"/>',
    ]
    for part, imported_parts in imports().items():
        (x, y) = middle[part]
        for imported in sorted(imported_parts):
            (to_x, to_y) = middle[imported]
            below, above = y + _BOX // 2, to_y - _BOX // 2
            bend = (above - below) // 2
            lines.append(f'<path d="M{x} {below}C{x} {below + bend} {to_x} {above - bend} {to_x} {above}"/>')
    for part, (x, y) in middle.items():
        width = 26 + 8 * len(part)
        lines.append(f'<rect x="{x - width // 2}" y="{y - _BOX // 2}" width="{width}" height="{_BOX}" rx="6"/>')
        lines.append(f'<text x="{x}" y="{y + 5}">{part}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"
