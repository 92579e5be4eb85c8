# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Conditional and range requests (RFC 9110, sections 13 and 14): the status and the bytes to send."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_TAG: Final = re.compile(r'(?:W/)?"[^"]*"')


class Verdict(msgspec.Struct, frozen=True):
    """A status (200, 206, 304, 412 or 416) and the bytes to send."""

    status: int
    start: int = 0
    length: int = 0

    def content_range(self, size: int) -> str:
        """Return the `Content-Range` of 206 and 416; empty for other statuses."""
        if self.status == 206:
            return f"bytes {self.start}-{self.start + self.length - 1}/{size}"
        return f"bytes */{size}" if self.status == 416 else ""


def judge(headers: Mapping[str, str], *, size: int, etag: str, modified: int) -> Verdict:
    """Evaluate a GET or HEAD with these headers (looked up as spelled here). `etag` is strong and quoted; `modified` is
    in seconds since the epoch; either may be empty if unknown."""
    matches, unmatched = headers.get("If-Match"), headers.get("If-None-Match")
    if matches is not None:
        if not _among(etag, matches, weak=False):
            return Verdict(412)
    elif (since := _date(headers.get("If-Unmodified-Since"))) is not None and modified > since:
        return Verdict(412)
    if unmatched is not None:
        if _among(etag, unmatched, weak=True):
            return Verdict(304)
    elif (since := _date(headers.get("If-Modified-Since"))) is not None and 0 < modified <= since:
        return Verdict(304)
    if not _is_unchanged(headers.get("If-Range"), etag, modified):
        return Verdict(200, 0, size)
    return _part(headers.get("Range"), size)


def _among(etag: str, header: str, *, weak: bool) -> bool:
    """Return True if a strong tag is in a list of tags; weak ones match it only in a weak comparison."""
    if header.strip() == "*":
        return True
    tags = _TAG.findall(header)
    return bool(etag) and any((tag.removeprefix("W/") if weak else tag) == etag for tag in tags)


def _date(header: str | None) -> int | None:
    """Return seconds since the epoch; None for anything but a date, which is ignored."""
    try:
        return int(parsedate_to_datetime(header).timestamp()) if header else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _is_unchanged(if_range: str | None, etag: str, modified: int) -> bool:
    """Return True if a range matches the client's copy: the same strong tag, or exactly the same date."""
    if if_range is None:
        return True
    validator = if_range.strip()
    return validator == etag if validator.startswith(('"', "W/")) else bool(modified) and _date(validator) == modified


def _part(header: str | None, size: int) -> Verdict:
    """Return the one range requested; the whole for none, a malformed one, or several."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(1) == match.group(2) == "":
        return Verdict(200, 0, size)
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last) if last else size - 1, size - 1)
        if last and int(last) < int(first):
            return Verdict(200, 0, size)
    if start >= size or start > end:
        return Verdict(416)
    return Verdict(206, start, end - start + 1)
