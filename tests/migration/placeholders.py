"""Queries as the server sees them."""

from __future__ import annotations

import re

from threadmill.drivers.postgres.sql import Query

_PLACEHOLDER = re.compile(rb"%(?:\((?P<name>\w+)\)[sbt]|(?P<percent>%))")


def numbered(query: Query) -> tuple[bytes, list[str]]:
    """The query with the server's placeholders, and the parameters' names in order."""
    names: list[str] = []

    def number(match: re.Match[bytes]) -> bytes:
        if match["percent"]:
            return b"%"
        name = match["name"].decode()
        if name not in names:
            names.append(name)
        return b"$%d" % (names.index(name) + 1)

    return _PLACEHOLDER.sub(number, query.text), names
