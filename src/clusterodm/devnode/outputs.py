# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The results of a development node: positions, a contact sheet and a report, made from the photos alone."""

from __future__ import annotations

import html
import io
import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
from PIL import Image

from clusterodm.devnode.photos import Photo, thumbnail
from clusterodm.devnode.tasks import DevTask

NOTICE: Final = (
    "Made by a ClusterODM development node. No photogrammetry was done: these files show only what the photos' own "
    "EXIF says. Use a real NodeODM node to make maps."
)
_THUMB: Final = 160
_SHEET_MAX: Final = 400


def write_archive(target: Path, task: DevTask, photos: list[Photo], paths: Iterable[Path]) -> None:
    """Write `all.zip`: everything, or the outputs that the client requested."""
    contents: dict[str, Callable[[], bytes]] = {
        "README.txt": f"{NOTICE}\n".encode,
        "camera_positions.geojson": lambda: _geojson(photos),
        "report/report.html": lambda: _report(task.name or "", photos, task.options).encode(),
        "contact_sheet.jpg": lambda: _contact_sheet(list(paths)),
    }
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            if _is_wanted(name, task.outputs):
                archive.writestr(zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0)), content())


def _is_wanted(name: str, outputs: list[str]) -> bool:
    """Return True if a file, or a folder that it is in, is among the outputs."""
    if not outputs:
        return True
    paths = {output.rstrip("/") for output in outputs}
    return bool(paths & {".", name, *(str(parent) for parent in PurePosixPath(name).parents if parent.name)})


def _geojson(photos: list[Photo]) -> bytes:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [photo.longitude, photo.latitude, photo.altitude or 0]},
            "properties": {"filename": photo.name, "camera": photo.camera, "taken": photo.taken},
        }
        for photo in photos
        if photo.latitude is not None and photo.longitude is not None
    ]
    return msgspec.json.encode({"type": "FeatureCollection", "description": NOTICE, "features": features})


def _contact_sheet(paths: list[Path]) -> bytes:
    thumbs = [thumb for path in paths[:_SHEET_MAX] if (thumb := thumbnail(path, _THUMB))]
    columns = max(1, math.ceil(math.sqrt(len(thumbs))))
    rows = max(1, math.ceil(len(thumbs) / columns))
    sheet = Image.new("RGB", (columns * (_THUMB + 8) + 8, rows * (_THUMB + 8) + 8), "white")
    for number, thumb in enumerate(thumbs):
        row, column = divmod(number, columns)
        sheet.paste(thumb, (8 + column * (_THUMB + 8), 8 + row * (_THUMB + 8)))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=85)
    return content.getvalue()


def _report(name: str, photos: list[Photo], options: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(photo.name)}<td>{photo.width} x {photo.height}"
        f"<td>{_shown(photo.latitude, 6)}<td>{_shown(photo.longitude, 6)}<td>{_shown(photo.altitude, 1)}"
        f"<td>{html.escape(photo.camera)}<td>{html.escape(photo.taken)}"
        for photo in photos
    )
    chosen = ", ".join(f"{option['name']}={option['value']}" for option in options) or "none"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(name)}</title>"
        "<style>body{font:15px/1.5 system-ui;margin:2em auto;max-width:70em}table{border-collapse:collapse}"
        "td,th{padding:.2em .8em;border-bottom:1px solid #ccc;text-align:left}</style>"
        f"<h1>{html.escape(name)}</h1><p><b>{html.escape(NOTICE)}</b></p>"
        f"<p>{len(photos)} photos, {sum(photo.latitude is not None for photo in photos)} with a position. "
        f"Options: {html.escape(chosen)}.</p><p><img src='../contact_sheet.jpg' alt='All photos, small'></p>"
        f"<table><tr><th>photo<th>pixels<th>latitude<th>longitude<th>altitude<th>camera<th>taken{rows}</table></html>"
    )


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
