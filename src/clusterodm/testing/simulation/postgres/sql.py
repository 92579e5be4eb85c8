# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""SQL of PostgreSQL in that of SQLite, and the types of parameters and results.

This is no parser: it knows what SQLAlchemy makes of simple statements. Anything else raises RealWorldError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from clusterodm.testing.simulation.errors import RealWorldError
from clusterodm.testing.simulation.postgres.wire import (
    BIGINT,
    FLOAT,
    INTEGER,
    TEXT,
    TEXTS,
    TYPES,
    VARCHAR,
    VOID,
    PostgresError,
)

#: Columns of a table with their types; empty if there is no such table.
Columns = Callable[[str], Mapping[str, int]]


@dataclass(frozen=True)
class Conflict:
    """The columns of an upsert that may conflict, and their parameters by number."""

    columns: tuple[str, ...]
    parameters: tuple[int, ...]
    updates: bool


@dataclass(frozen=True)
class Statement:
    """A statement to execute. `kind` is "select", "insert", "update", "delete", "ddl", "lock", "notify", "channel",
    "set", "constant" or "empty"."""

    kind: str
    text: str
    table: str = ""
    parameters: tuple[int, ...] = ()
    columns: tuple[tuple[str, int], ...] = ()
    conflict: Conflict | None = None
    #: What follows the select list, if the rows are to be locked.
    locked: str = ""

    def tag(self, count: int) -> str:
        """Return its command tag."""
        if self.kind == "channel":
            return self.text.partition(" ")[0]
        if self.kind == "ddl":
            return " ".join(self.text.split()[:2]).upper().replace("UNIQUE", "INDEX")
        verb = self.kind.upper() if self.kind in ("insert", "update", "delete") else "SELECT"
        return f"INSERT 0 {count}" if verb == "INSERT" else f"{verb} {count}"


#: Questions with one answer.
_CONSTANTS: Final = {
    "select pg_catalog.version()": "PostgreSQL 15.0 (a model)",
    "select current_schema()": "public",
    "show standard_conforming_strings": "on",
    "show transaction isolation level": "read committed",
    "SHOW server_version": "15.0",
}
_SPECIAL: Final = {
    "SELECT pg_advisory_xact_lock(hashtextextended($1::VARCHAR, $2::INTEGER)) AS pg_advisory_xact_lock_1": Statement(
        "lock", "", parameters=(VARCHAR, INTEGER), columns=(("pg_advisory_xact_lock_1", VOID),)
    ),
    "SELECT pg_notify($1::VARCHAR, $2::VARCHAR) AS pg_notify_1": Statement(
        "notify", "", parameters=(VARCHAR, VARCHAR), columns=(("pg_notify_1", VOID),)
    ),
    "SELECT 1": Statement("select", "SELECT 1", columns=(("?column?", INTEGER),)),
}
_SETTING: Final = r"set_config\('\w+', '\w+', false\)"

_PARAMETER: Final = re.compile(r"\$(\d+)(?:::([A-Z]+))?")
_REWRITTEN: Final = (
    (re.compile(r"CAST\(EXTRACT\(epoch FROM clock_timestamp\(\)\) AS FLOAT\)"), "epoch()"),
    (re.compile(r"= ANY ?\(\$(\d+)\)"), r"IN (SELECT value FROM json_each(?\1))"),
    (re.compile(r"= ANY \(ARRAY\[([^]]*)\]\)"), r"IN (\1)"),
    (re.compile(r"([\w.]+) ILIKE ('%' \|\| \S+ \|\| '%')"), r"lower(\1) LIKE lower(\2)"),
    (re.compile(r"pg_catalog\.pg_table_is_visible\([\w.]+\)"), "true"),
    (re.compile(r"pg_catalog\."), ""),
)
_FOR_UPDATE: Final = " FOR UPDATE"
#: Words before a parenthesis.
_KNOWN: Final = frozenset(
    (
        *("VALUES", "IN", "ON", "CONFLICT", "AND", "OR", "NOT", "WHERE", "WHEN", "THEN", "ELSE", "SELECT", "EXISTS"),
        *("DISTINCT", "SET", "FROM", "count", "sum", "min", "max", "coalesce", "lower", "epoch", "json_each"),
    )
)
#: What is left of SQL that was not understood.
_FOREIGN: Final = re.compile(r"::|\$\d|\bANY\b|\bARRAY\b|\bILIKE\b|\bSIMILAR\b|\bFOR\b|\bREGCLASS\b|\bEXTRACT\b")
_INSERT: Final = re.compile(
    r"INSERT INTO (\w+) \(([^)]*)\) VALUES \((.*?)\) ON CONFLICT \(([^)]*)\) DO (NOTHING|UPDATE)"
)
_TEXTS: Final = re.compile(r"'[^']*'")


def translate(source: str, columns: Columns) -> Statement:
    """Return a statement to execute. Raises PostgresError for unknown tables and columns."""
    source = " ".join(source.split()).rstrip(";")
    verb = source.partition(" ")[0].lower()
    if verb == "create":
        return Statement("ddl", _definition(source))
    return _special(source) or _ordinary(source, verb, columns)


def _special(source: str) -> Statement | None:
    """Return a statement that is not about tables; None for any other."""
    if source in _CONSTANTS:
        return Statement("constant", _CONSTANTS[source], columns=(("value", TEXT),))
    if source in _SPECIAL:
        return _SPECIAL[source]
    if re.fullmatch(rf"SELECT {_SETTING}(, {_SETTING})*", source):
        return Statement("set", source, columns=tuple(("set_config", TEXT) for _ in re.findall(_SETTING, source)))
    if match := re.fullmatch(r'(LISTEN|UNLISTEN) "?(\w+|\*)"?', source):
        return Statement("channel", source, table=match[2])
    return None


def _ordinary(source: str, verb: str, columns: Columns) -> Statement:
    if verb not in ("select", "insert", "update", "delete"):
        raise _unknown(source)
    text, table = source.removesuffix(_FOR_UPDATE), _table(source, verb)
    if verb != "select" and not columns(table):
        raise PostgresError("42P01", f'relation "{table}" does not exist')
    parameters = _parameters(text, columns(table))
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    text = _PARAMETER.sub(r"?\1", text)
    _require_known(text, source)
    types = _Types(source, table, columns, parameters)
    if verb == "select":
        listed, rest = _split_list(text.removeprefix("SELECT ").removeprefix("DISTINCT "))
        locked = rest if source.endswith(_FOR_UPDATE) else ""
        return Statement(verb, text, table, parameters, tuple(map(types.column, listed)), locked=locked)
    head, _, returned = text.rpartition(" RETURNING ")
    if not head:
        return Statement(verb, text, table, parameters, (), _conflict(source))
    listed = [item.rpartition(".")[2] for item in _split_list(returned)[0]]
    text = f"{head} RETURNING {', '.join(listed)}"
    return Statement(verb, text, table, parameters, tuple(map(types.column, listed)), _conflict(source))


def settings(statement: Statement) -> dict[str, str]:
    """Return what a statement of the kind "set" sets."""
    return dict(re.findall(r"set_config\('(\w+)', '(\w+)', false\)", statement.text))


def _unknown(source: str) -> RealWorldError:
    return RealWorldError(f"the model of PostgreSQL does not know this SQL: {source}")


def _table(source: str, verb: str) -> str:
    before = {"select": r" FROM ", "insert": r"INSERT INTO ", "update": r"UPDATE ", "delete": r"DELETE FROM "}[verb]
    text = source
    while "(SELECT " in text:  # of subqueries in the list
        text, count = re.subn(r"\([^()]*\)", "_", text)
        if not count:
            break
    match = re.search(rf"{before}(?:pg_catalog\.)?(\w+)", text)
    if match is None:
        raise _unknown(source)
    return match[1]


def _parameters(text: str, columns: Mapping[str, int]) -> tuple[int, ...]:
    types: dict[int, int] = {}
    for match in _PARAMETER.finditer(text):
        number = int(match[1])
        if match[2] is not None:
            if match[2] not in TYPES:
                raise _unknown(text)
            types[number] = TYPES[match[2]]
        elif re.search(r"= ANY ?\($", text[: match.start()]):
            types[number] = TEXTS
        elif re.fullmatch(r"INSERT INTO \w+ VALUES \(\$1\)", text):
            types[number] = next(iter(columns.values()))
        else:
            raise _unknown(text)
    return tuple(types[number] for number in sorted(types))


def _require_known(text: str, source: str) -> None:
    """Raise RealWorldError for anything that SQLite would understand otherwise, or not at all."""
    plain = _TEXTS.sub("''", text)
    words = re.findall(r"(\w+) ?\(", plain)
    tables = set(re.findall(r"INSERT INTO (\w+) ", plain))
    if _FOREIGN.search(plain) or "pg_" in plain.replace("pg_class", "").replace("pg_namespace", ""):
        raise _unknown(source)
    for word in words:
        if word not in _KNOWN and word not in tables:
            raise _unknown(source)


def _split_list(text: str) -> tuple[list[str], str]:
    """Return the items of a select list, and what follows it."""
    items, depth, begin = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter == ",":
            items.append(text[begin:at].strip())
            begin = at + 1
        elif depth == 0 and text.startswith(" FROM ", at):
            return [*items, text[begin:at].strip()], text[at:]
    return [*items, text[begin:].strip()], ""


@dataclass(frozen=True)
class _Types:
    """The types of what a statement returns."""

    source: str
    table: str
    columns: Columns
    parameters: tuple[int, ...]

    def column(self, item: str) -> tuple[str, int]:
        """Return the name and the type of an item of a select list."""
        value, _, name = item.rpartition(" AS ")
        return name.rpartition(".")[2], self.of(value or name)

    def of(self, value: str) -> int:
        """Return the type of a value. Raises PostgresError and RealWorldError."""
        if match := re.fullmatch(r"(?:(\w+)\.)?([a-z_]+)", value):
            return self._of_column(match[1] or self.table, match[2])
        if match := re.fullmatch(r"\?(\d+)", value):
            return self.parameters[int(match[1]) - 1]
        if match := re.fullmatch(r"(count|sum|min|max|coalesce)\((.*)\)", value):
            return self._of_function(match[1], match[2])
        if match := re.fullmatch(r"\(SELECT (.*)\)", value):
            [item], _ = _split_list(match[1])
            return self.column(item)[1]
        raise _unknown(self.source)

    def _of_column(self, table: str, name: str) -> int:
        known = self.columns(table)
        if not known:
            raise PostgresError("42P01", f'relation "{table}" does not exist')
        if name not in known:
            raise PostgresError("42703", f"column {table}.{name} does not exist")
        return known[name]

    def _of_function(self, name: str, arguments: str) -> int:
        if name == "count":
            return BIGINT
        kind = self.of(_split_list(arguments)[0][0])
        if name == "sum" and kind != FLOAT:
            raise _unknown(self.source)
        return kind


def _conflict(source: str) -> Conflict | None:
    if " ON CONFLICT " not in source:
        return None
    match = _INSERT.match(source)
    if match is None:
        raise _unknown(source)
    names, values = match[2].split(", "), _split_list(match[3])[0]
    target = tuple(match[4].split(", "))
    numbers = [_PARAMETER.fullmatch(values[names.index(name)]) for name in target]
    if any(number is None for number in numbers):
        raise _unknown(source)
    return Conflict(target, tuple(int(number[1]) - 1 for number in numbers if number), match[5] == "UPDATE")


def _definition(source: str) -> str:
    """Return the definition of a table or an index: sequences, and limits of texts, as SQLite has none."""
    table = re.match(r"CREATE TABLE (\w+) ", source)
    if table is not None:
        source = source.replace(" SERIAL ", f" INT DEFAULT (nextval('{table[1]}')) ")
        return re.sub(r"(\w+) VARCHAR\((\d+)\)", r"\1 VARCHAR(\2) CHECK (length(\1) <= \2)", source)
    if not re.match(r"CREATE (UNIQUE )?INDEX \w+ ON ", source):
        raise _unknown(source)
    return source
