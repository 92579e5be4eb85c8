# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Photos: their EXIF, and generated ones with positions for demos and tests."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path
from typing import Any, Final

import msgspec
from PIL import ExifTags, Image, ImageDraw, UnidentifiedImageError

_SIDE: Final = (640, 480)


class Photo(msgspec.Struct, frozen=True, kw_only=True):
    """One photo: pixels, degrees (north and east positive), metres above the sea, camera and time as EXIF has them."""

    name: str
    width: int
    height: int
    latitude: float | None = None
    longitude: float | None = None
    altitude: float | None = None
    camera: str = ""
    taken: str = ""

    def __str__(self) -> str:
        position = "no position"
        if self.latitude is not None and self.longitude is not None:
            position = f"{self.latitude:.6f}, {self.longitude:.6f}, {self.altitude or 0:.1f} m"
        return f"{self.name}: {self.width} x {self.height}, {position}"


def read_photo(path: Path) -> Photo | None:
    """Return the photo at `path`; None if it is no image."""
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
            return Photo(
                name=path.name,
                width=image.width,
                height=image.height,
                latitude=_degrees(gps, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef),
                longitude=_degrees(gps, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef),
                altitude=_number(gps.get(ExifTags.GPS.GPSAltitude)),
                camera=" ".join(_text(exif.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model)).strip(),
                taken=_text(exif.get(ExifTags.Base.DateTime)),
            )
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _degrees(gps: dict[int, Any], tag: int, reference: int) -> float | None:
    try:
        degrees, minutes, seconds = (float(part) for part in gps[tag])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    if math.isnan(value):
        return None
    return -value if str(gps.get(reference, "")).upper() in ("S", "W") else value


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return None if math.isnan(number) else number


def _text(value: Any) -> str:
    return str(value or "").strip("\0 ")


def thumbnail(path: Path, side: int) -> Image.Image | None:
    """Return a thumbnail of an image; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (side, side))
            image.thumbnail((side, side))
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def make_photos(folder: Path, count: int, *, seed: int = 1) -> list[Path]:
    """Write `count` small JPEGs with positions on a survey grid, as a drone takes them; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)  # nosec B311
    columns = max(1, round(math.sqrt(count)))
    return [_make_photo(folder, number, columns, chance) for number in range(count)]


def _make_photo(folder: Path, number: int, columns: int, chance: random.Random) -> Path:
    row, column = divmod(number, columns)
    column = column if row % 2 == 0 else columns - 1 - column
    latitude, longitude = 46.8425 + row * 0.00025, -91.9940 + column * 0.00035
    path = folder / f"DEMO_{number + 1:04d}.JPG"
    content = io.BytesIO()
    _picture(row, column, chance).save(
        content, "JPEG", quality=80, exif=_exif(latitude, longitude, 180 + chance.random() * 2, number)
    )
    path.write_bytes(content.getvalue())
    return path


def _picture(row: int, column: int, chance: random.Random) -> Image.Image:
    """Draw fields and a road, shifted as the drone moves, so that a contact sheet looks like a flight."""
    image = Image.new("RGB", _SIDE, (96, 128, 72))
    draw = ImageDraw.Draw(image)
    for x in range(-1, 5):
        for y in range(-1, 5):
            shade = random.Random((x + column) * 1009 + (y - row) * 9176).randrange(60)  # nosec B311
            left, top = x * 160 + 20, y * 120 + 15
            draw.rectangle((left, top, left + 140, top + 105), fill=(80 + shade, 120 + shade // 2, 50 + shade // 3))
    road = 320 - (column % 4) * 60
    draw.line((road, 0, road + 60, _SIDE[1]), fill=(150, 146, 138), width=18)
    for _ in range(40):
        x, y = chance.randrange(_SIDE[0]), chance.randrange(_SIDE[1])
        draw.ellipse((x, y, x + 9, y + 9), fill=(40, 84 + chance.randrange(40), 40))
    return image


def _exif(latitude: float, longitude: float, altitude: float, number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "ClusterODM", "generated"
    exif[ExifTags.Base.DateTime] = f"2026:05:17 10:{number // 30 % 60:02d}:{number * 2 % 60:02d}"
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = _parts(latitude, "NS")
    gps[ExifTags.GPS.GPSLongitudeRef], gps[ExifTags.GPS.GPSLongitude] = _parts(longitude, "EW")
    gps[ExifTags.GPS.GPSAltitudeRef], gps[ExifTags.GPS.GPSAltitude] = b"\0", altitude
    return exif


def _parts(value: float, letters: str) -> tuple[str, tuple[float, float, float]]:
    minutes, degrees = math.modf(abs(value))
    seconds, whole = math.modf(minutes * 60)
    return letters[value < 0], (degrees, whole, round(seconds * 60, 4))
