# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Charts as SVG, for the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Line = tuple[str, Sequence[tuple[float, float]]]
_COLOURS = ("#2f6fde", "#d9632a", "#2a9d62", "#8a4fbf")
_GREYS = ("#9aa3ad", "#b6bdc5", "#7f8a96", "#ccd1d6", "#6a7683")
WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 44


def chart(path: Path, title: str, x: str, y: str, lines: Sequence[Line]) -> None:
    """Write one chart; axes begin at 0."""
    right = max((point[0] for _, points in lines for point in points), default=1.0) or 1.0
    top = max((point[1] for _, points in lines for point in points), default=1.0) or 1.0
    inner_w, inner_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(point: tuple[float, float]) -> str:
        return f"{LEFT + point[0] / right * inner_w:.1f},{TOP + inner_h - point[1] / top * inner_h:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#444">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-size="14" font-weight="bold">{title}: {y}</text>',
    ]
    for step in range(5):
        level = TOP + inner_h * step / 4
        value = top * (4 - step) / 4
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level}" y2="{level}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{level + 4}" text-anchor="end">{_short(value)}</text>')
        place = LEFT + inner_w * step / 4
        parts.append(f'<text x="{place}" y="{HEIGHT - 24}" text-anchor="middle">{_short(right * step / 4)}</text>')
    parts.append(f'<text x="{LEFT + inner_w / 2}" y="{HEIGHT - 6}" text-anchor="middle">{x}</text>')
    for number, (name, points) in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        path_of = " ".join(map(at, _thinned(points)))
        parts.append(f'<polyline points="{path_of}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        place = WIDTH - RIGHT - 150 * (len(lines) - number)
        parts.append(f'<rect x="{place}" y="{TOP - 18}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{place + 14}" y="{TOP - 9}">{name}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _thinned(points: Sequence[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    step = max(1, len(points) // most)
    return list(points[::step])


def _short(value: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def bars(path: Path, title: str, unit: str, groups: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    """Write horizontal bars, in groups under a headline each; all begin at 0 and have one scale."""
    names = list(dict.fromkeys(name for _, values in groups for name in values))
    top = max(value for _, values in groups for value in values.values()) or 1.0
    row, left = 20, 130
    height = 40 + sum(26 + row * len(values) for _, values in groups)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12" fill="#444">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="20" font-size="14" font-weight="bold">{title} ({unit}, shorter is better)</text>',
    ]
    y = 40
    for headline, values in groups:
        parts.append(f'<text x="8" y="{y + 12}" font-weight="bold">{_plain(headline)}</text>')
        y += 22
        for name, value in values.items():
            colour = _COLOURS[0] if name == "ClusterODM" else _GREYS[names.index(name) % len(_GREYS)]
            width = max(1.0, (WIDTH - left - 80) * value / top)
            parts.append(f'<text x="{left - 6}" y="{y + 13}" text-anchor="end">{name}</text>')
            parts.append(f'<rect x="{left}" y="{y + 2}" width="{width:.1f}" height="{row - 5}" fill="{colour}"/>')
            parts.append(f'<text x="{left + width + 5:.1f}" y="{y + 13}">{_short(value)}</text>')
            y += row
        y += 4
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _plain(text: str) -> str:
    return text.replace("`", "").replace("&", "&amp;").replace("<", "&lt;")
