# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Field and file names from `Content-Disposition`, in every notation that clients use: quoted as browsers do (`%22`)
or with backslashes, unquoted or half quoted, `filename*` and its continuations (RFC 5987, RFC 2231), encoded words
(RFC 2047), and bytes of a legacy character set. Nothing is refused: what cannot be decoded is kept as it is."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

_PARAMETER: Final = re.compile(r'\s*([^\s=;"]+)\s*=\s*')
_EXTENDED: Final = re.compile(r"([\w.+:-]*)'[^']*'(.*)", re.DOTALL)
_ENCODED: Final = re.compile(r"=\?([\w-]+)(?:\*[\w-]*)?\?([BbQq])\?([^?]*)\?=")
_ENCODED_ONLY: Final = re.compile(rf"\s*{_ENCODED.pattern}(?:\s*{_ENCODED.pattern})*\s*")
_QUOTED_PRINTABLE: Final = re.compile(r"=([0-9A-Fa-f]{2})")
_LATIN: Final = frozenset({"iso-8859-1", "latin1", "latin-1", "windows-1252", "cp1252"})
#: What browsers write for characters that would end a quoted text.
_BROWSER: Final = (("%22", '"'), ("%0D", "\r"), ("%0A", "\n"))
#: Most parts of one name.
_MOST_PARTS: Final = 100


def field_and_file(header: str) -> tuple[str | None, str | None]:
    """Return the `name` and the file name of a header whose bytes were read as Latin-1; None for a missing one, and for
    both if it is no form field."""
    text = _decoded(header.encode("latin-1", "replace"), "utf-8")
    kind, _, rest = text.partition(";")
    if kind.strip().lower() != "form-data":
        return None, None
    parameters = dict(_parameters(rest))
    name = parameters.get("name")
    extended = _extended(parameters)
    plain = parameters.get("filename")
    return name, extended if extended is not None else plain if plain is None else _from_words(plain)


def _parameters(text: str) -> Iterator[tuple[str, str]]:
    """Yield names in lower case with unquoted values. `text` is what follows the first semicolon."""
    at = 0
    while match := _PARAMETER.match(text, at):
        begin = match.end()
        value, at = _quoted(text, begin + 1) if text.startswith('"', begin) else _plain(text, begin)
        yield match[1].lower(), value
        end = text.find(";", at)
        at = end + 1 if end >= 0 else len(text)


def _plain(text: str, at: int) -> tuple[str, int]:
    end = text.find(";", at)
    end = len(text) if end < 0 else end
    return text[at:end].strip(), end


def _quoted(text: str, at: int) -> tuple[str, int]:
    """Return the text up to its closing quote, or to the end. A backslash that escapes nothing is literal: paths have
    them."""
    characters: list[str] = []
    while at < len(text) and text[at] != '"':
        at += text[at] == "\\" and text[at + 1 : at + 2] in ('"', "\\")
        characters.append(text[at])
        at += 1
    value = "".join(characters)
    for written, character in _BROWSER:
        value = value.replace(written, character)
    return value, at + 1


def _extended(parameters: dict[str, str]) -> str | None:
    """Return the file name of `filename*`, or of `filename*0`, `filename*1*` and so on."""
    if (whole := parameters.get("filename*")) is not None:
        charset, value = _split(whole)
        return _decoded(unquote_to_bytes(value), charset)
    content, charset = b"", "utf-8"
    for number in range(_MOST_PARTS):
        key = f"filename*{number}"
        if (coded := parameters.get(f"{key}*")) is not None:
            charset, coded = _split(coded) if number == 0 else (charset, coded)
            content += unquote_to_bytes(coded)
        elif (plain := parameters.get(key)) is not None:
            content += plain.encode("utf-8", "replace")
        else:
            return _decoded(content, charset) if number else None
    return _decoded(content, charset)


def _split(value: str) -> tuple[str, str]:
    match = _EXTENDED.fullmatch(value)
    return (match[1].lower(), match[2]) if match else ("utf-8", value)


def _from_words(text: str) -> str:
    """Decode a name that consists of encoded words."""
    if not _ENCODED_ONLY.fullmatch(text):
        return text
    try:
        return "".join(_word(match) for match in _ENCODED.finditer(text))
    except (binascii.Error, ValueError):
        return text


def _word(match: re.Match[str]) -> str:
    charset, kind, coded = match[1].lower(), match[2].lower(), match[3]
    if kind == "b":
        content = base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True)
    else:
        escaped = _QUOTED_PRINTABLE.sub(r"%\1", coded.replace("%", "%25").replace("_", " "))
        content = unquote_to_bytes(escaped)
    return _decoded(content, charset)


def _decoded(content: bytes, charset: str) -> str:
    """Decode bytes: by the given character set if it is a legacy one, else as UTF-8 if possible."""
    if charset not in _LATIN:
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        return content.decode("latin-1")
