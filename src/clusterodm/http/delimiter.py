# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which blocks of a multipart body need no parser."""

from __future__ import annotations


class Delimiter:
    """What separates parts. Blocks without it, in the middle of a file, need no parser and no copy."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        #: The parser holds back the beginning of what may become the delimiter.
        self._held_back = False

    def surely_not_in(self, block: bytes | memoryview) -> bool:
        """Whether no part of the delimiter is in `block`, nor in what the parser has of the blocks before. To be asked
        for every block in turn."""
        whole = block.obj if isinstance(block, memoryview) else block
        assert isinstance(whole, bytes | bytearray), "blocks begin where their memory does"  # noqa: S101 - see body.py
        held_back, end = self._held_back, len(block)
        longest = len(self._delimiter) + 1  # what follows a delimiter is two bytes, so one of them may have come
        self._held_back = True
        if end <= longest:
            return False  # too short to tell what the parser will hold back
        last = whole.rfind(b"\r", end - longest, end)
        tail = bytes(whole[last:end]) if last >= 0 else b"?"
        self._held_back = self._delimiter.startswith(tail) or tail.startswith(self._delimiter)
        return not held_back and not self._held_back and whole.find(self._delimiter, 0, end) < 0
