# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was measured, as a table, as bars, and as text: docs/performance.md and its pictures."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.charts import bars

PEERS = ("plain aiohttp", "nginx", "HAProxy", "bare loop")


@dataclass
class Row:
    """One work: what it cost here and at others, in `unit`; `reach`: at most so much."""

    work: str
    unit: str
    ours: float
    peers: Mapping[str, float]
    reach: float | None
    original: str = ""
    digits: int = 2

    @property
    def reached(self) -> bool:
        """Whether the bound was kept."""
        return self.reach is None or self.ours <= self.reach

    def text(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.{self.digits}f} {self.unit}".strip()


@dataclass
class Report:
    """Rows in the order in which they were measured."""

    rows: list[Row] = field(default_factory=list)
    #: The part that is being measured, and the rows of each.
    part: str = ""
    parts: dict[str, list[Row]] = field(default_factory=dict)

    def add(
        self, work: str, unit: str, found: Mapping[str, Sequence[float]], *, reach: float | None, **how: object
    ) -> None:
        """Medians of what was found, by who it was ("ours" and peers), printed at once."""
        medians = {name: statistics.median(values) for name, values in found.items()}
        row = Row(work, unit, medians.pop("ours"), medians, reach, **how)  # type: ignore[arg-type]
        self.rows.append(row)
        self.parts.setdefault(self.part, []).append(row)
        others = ", ".join(f"{name} {row.text(value)}" for name, value in row.peers.items())
        bound = f" (reach {row.text(reach)})" if reach is not None else ""
        print(f"{'ok  ' if row.reached else 'MISS'} {work}: {row.text(row.ours)}{bound} {others}", flush=True)

    def keep(self, path: Path, order: Iterable[str]) -> None:
        """Have what was measured in a file, beside the parts that were measured before."""
        kept = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Row]]) if path.exists() else {}
        kept |= self.parts
        self.rows = [row for part in order for row in kept.get(part, [])]
        path.write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")

    def write(self, folder: Path, rounds: int, cores: int) -> None:
        """The page, and pictures of the rows that have peers."""
        versions = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        page = (Path(__file__).parent / "page.md").read_text()
        introduction, _, notes = page.partition("TABLE")
        lines = [introduction.format(cores=cores, versions=versions, rounds=rounds)]
        head = ["work", "ClusterODM", *PEERS, "original", "reach", ""]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for row in self.rows:
            peers = [_against(row, name) for name in PEERS]
            reach = f"<= {row.text(row.reach)}" if row.reach is not None else ""
            verdict = "" if row.reach is None else "yes" if row.reached else "**no**"
            others = [f"{name}: {row.text(value)}" for name, value in row.peers.items() if name not in PEERS]
            ours = row.text(row.ours) + "".join(f" ({other})" for other in others)
            cells = [row.work, ours, *peers, row.original, reach, verdict]
            lines.append("| " + " | ".join(cells) + " |")
        compared = [row for row in self.rows if row.peers]
        for unit, name, title in (
            ("us", "performance-requests.svg", "CPU of one request"),
            ("CPU-s", "performance-bulk.svg", "CPU of 1 GB"),
            ("s", "performance-prefetch.svg", "From the commit to running"),
        ):
            chosen = [row for row in compared if row.unit == unit]
            if chosen:
                groups = [(row.work, {"ClusterODM": row.ours, **row.peers}) for row in chosen]
                bars(folder / "images" / name, title, unit, groups)
                lines += ["", f"![{title}](images/{name})"]
        lines += ["", notes.strip()]
        (folder / "performance.md").write_text("\n".join(lines) + "\n")


def _against(row: Row, name: str) -> str:
    value = row.peers.get(name)
    return f"{row.text(value)} ({value / row.ours:.1f}x)" if value is not None and row.ours else ""
