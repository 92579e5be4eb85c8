# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A history as a picture: one row for each fault, process of the cluster, task, node and machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from html import escape
from typing import Final

from clusterodm.testing.simulation import Event

_WIDTH: Final = 1000.0
_LABELS: Final = 130.0
_ROW: Final = 20.0
_HEAD: Final = 26.0
#: Pixels of a letter, about.
_LETTER: Final = 6.2
_RED, _DARK, _AMBER, _LIGHT, _RUN = "#f5b5ab", "#4b5563", "#f0c36d", "#e5e7eb", "#8fd19e"
_PHASES: Final = {
    "receiving": "#e5e7eb",
    "queued": "#cbd5e1",
    "dispatching": "#a9c8f5",
    "running": _RUN,
    "collecting": "#7fd0c4",
}
_OUTCOMES: Final = {"completed": "✓", "failed": "✗", "canceled": "⊘"}


@dataclass
class _Bar:
    begin: float
    end: float
    color: str
    text: str = ""


@dataclass
class _Row:
    label: str
    bars: list[_Bar] = field(default_factory=list)
    #: Times, and what is written there.
    marks: list[tuple[float, str]] = field(default_factory=list)


def draw(events: list[Event], title: str) -> str:
    """Return the SVG of a history, up to the last event that is not a poll."""
    end = max(event.at for event in events if event.kind not in ("status", "console", "faults over"))
    groups = [_faults(events, end), _cluster(events, end), _tasks(events, end), _nodes(events, end)]
    rows = [row for group in groups for row in group]
    height = _HEAD + _ROW * len(rows) + 24
    scale = (_WIDTH - _LABELS - 20) / end
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" font-family="sans-serif" '
        f'font-size="11" fill="#1f2937"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="6" y="16" font-weight="bold">{escape(title)}</text>',
        *_legend(),
    ]
    for number, row in enumerate(rows):
        parts += _drawn(row, _HEAD + _ROW * number, scale)
    parts += _axis(end, scale, height)
    return "\n".join([*parts, "</svg>\n"])


def _drawn(row: _Row, top: float, scale: float) -> Iterator[str]:
    yield f'<text x="6" y="{top + 14:.1f}">{escape(row.label)}</text>'
    for bar in row.bars:
        left, width = _LABELS + bar.begin * scale, max(2.0, (bar.end - bar.begin) * scale)
        yield f'<rect x="{left:.1f}" y="{top + 3:.1f}" width="{width:.1f}" height="15" fill="{bar.color}"/>'
        if len(bar.text) * _LETTER < width and not any(bar.begin <= at < bar.end for at, _ in row.marks):
            yield f'<text x="{left + 3:.1f}" y="{top + 14:.1f}">{escape(bar.text)}</text>'
    free = _LABELS
    for at, text in row.marks:
        width = len(text) * _LETTER
        left = min(max(free, _LABELS + at * scale + 2), _WIDTH - width)
        free = left + width
        yield f'<text x="{left:.1f}" y="{top + 14:.1f}">{escape(text)}</text>'


def _legend() -> Iterator[str]:
    left = _WIDTH - 20.0
    for name, color in reversed([*_PHASES.items(), ("down", _DARK), ("paused", _AMBER)]):
        left -= len(name) * _LETTER + 24
        yield f'<rect x="{left:.1f}" y="7" width="11" height="11" fill="{color}"/>'
        yield f'<text x="{left + 14:.1f}" y="16">{name}</text>'


def _axis(end: float, scale: float, height: float) -> Iterator[str]:
    step = next(step for step in (10, 20, 30, 60, 120, 300, 600, 1800, 3600, 86400) if end / step < 12)
    for second in range(0, int(end) + 1, step):
        x = _LABELS + second * scale
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_HEAD}" y2="{height - 20:.1f}" stroke="#9ca3af" opacity="0.35"/>'
        yield f'<text x="{x:.1f}" y="{height - 6:.1f}" text-anchor="middle" fill="#6b7280">{second} s</text>'


def _faults(events: list[Event], end: float) -> list[_Row]:
    rows = dict[int, _Row]()
    for event in events:
        if event.kind == "fault begins":
            number, kind, *_ = str(event.details["fault"]).removeprefix("fault ").split(": ")
            kind = kind.partition(" at ")[0]
            rows[int(number)] = _Row("faults" if not rows else "", [_Bar(event.at, end, _RED)], [(event.at, kind)])
        elif event.kind == "fault ends":
            rows[event.details["fault"]].bars[0].end = event.at
    return list(rows.values())


def _cluster(events: list[Event], end: float) -> list[_Row]:
    rows = dict[str, _Row]()
    for event in events:
        if event.kind in ("cluster killed", "cluster loses power", "cluster stops", "replica paused"):
            color = _AMBER if event.kind == "replica paused" else _DARK
            _row(rows, event.actor).bars.append(_Bar(event.at, end, color))
        elif event.kind in ("cluster ready", "replica goes on"):
            if bars := _row(rows, event.actor).bars:
                bars[-1].end = event.at
        elif event.kind in ("database killed", "database stops"):
            _row(rows, "database").bars.append(_Bar(event.at, end, _DARK))
        elif event.kind == "database starts" and (bars := _row(rows, "database").bars):
            bars[-1].end = event.at
    return list(rows.values())


def _tasks(events: list[Event], end: float) -> list[_Row]:
    rows = dict[str, _Row]()
    for event in events:
        if event.kind == "announced":
            rows[event.subject] = _Row(event.actor)
    for event in events:
        row = rows.get(event.subject)
        if row is None:
            continue
        if event.kind.startswith("phase "):
            phase = event.kind.removeprefix("phase ")
            if row.bars and row.bars[-1].end == end:
                row.bars[-1].end = event.at
            if phase in _PHASES:
                row.bars.append(_Bar(event.at, end, _PHASES[phase], phase))
            elif phase == "finished":
                row.marks.append((event.at, _OUTCOMES[event.details["outcome"]]))
        elif event.kind == "ordering":
            row.marks.append((event.at, f"▸{event.details['verb']}"))
    return list(rows.values())


def _nodes(events: list[Event], end: float) -> list[_Row]:
    rows, running = dict[str, _Row](), dict[tuple[str, str], _Bar]()
    names, gone = _names(events), set[str]()
    for event in events:
        node = event.subject if event.kind.startswith("machine ") else event.actor
        if node not in names or node in gone:
            continue
        row = _row(rows, node, names[node])
        if event.kind == "machine created":
            row.bars.append(_Bar(event.at, end, _LIGHT, "machine"))
        elif event.kind in ("machine deleted", "machine taken"):
            gone.add(node)
            row.bars = [replace(bar, end=min(bar.end, event.at)) for bar in row.bars if bar.begin < event.at]
        elif event.kind == "run begins":
            bar = running[node, event.subject] = _Bar(event.at, end, _RUN)
            row.bars.append(bar)
        elif event.kind == "run ends" and (node, event.subject) in running:
            running.pop((node, event.subject)).end = event.at
        elif event.kind in ("node killed", "node loses power"):
            for key in [key for key in running if key[0] == node]:
                running.pop(key).end = event.at
            row.bars.append(_Bar(event.at, end, _DARK))
        elif event.kind == "node starts" and row.bars and row.bars[-1].color == _DARK:
            row.bars[-1].end = event.at
    return list(rows.values())


def _names(events: Iterable[Event]) -> dict[str, str]:
    """Return the labels of nodes and machines."""
    names = dict[str, str]()
    for event in events:
        if event.kind == "machine created":
            names[event.subject] = f"machine {sum('machine' in name for name in names.values()) + 1}"
        elif event.kind == "node starts" and event.actor not in names:
            names[event.actor] = event.actor
    return names


def _row(rows: dict[str, _Row], key: str, label: str = "") -> _Row:
    return rows.setdefault(key, _Row(label or key))
