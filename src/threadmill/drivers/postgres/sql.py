"""Loads named queries from `.sql` files.

SQL lives in files, one query under one name, so that it can be read, prepared
against the real schema by a test, and found by its name in logs. A query begins
with a header::

    -- name: head_move
    -- Moves the head of one namespace ...

Everything up to the next header is its text. Names are unique in a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING

from psycopg.adapt import PyFormat

from threadmill.errors import InvariantViolated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PLACEHOLDER = re.compile(rb"%(?:\((?P<name>[a-z_]+)\)(?P<format>[sb])|%)")
_FORMATS = {b"s": PyFormat.AUTO, b"b": PyFormat.BINARY}
_HEADER = re.compile(r"^-- name: (?P<name>[a-z_][a-z0-9_]*)$", re.MULTILINE)


@dataclass(frozen=True, eq=False)
class Query:
    """One named statement with placeholders like `%(tenant)s`, as psycopg knows them.

    `text` is bytes because it is never built at run time.
    """

    name: str
    text: bytes

    @cached_property
    def positional(self) -> bytes:
        """The text as PostgreSQL knows it, with `$1` for the first of `names`."""
        return self._parsed[0]

    @property
    def names(self) -> Sequence[str]:
        """The parameters, in the order in which they first occur."""
        return self._parsed[1]

    @property
    def formats(self) -> Sequence[PyFormat]:
        """How each parameter is sent."""
        return self._parsed[2]

    @cached_property
    def _parsed(self) -> tuple[bytes, Sequence[str], Sequence[PyFormat]]:
        found: dict[str, PyFormat] = {}

        def number(match: re.Match[bytes]) -> bytes:
            if match["name"] is None:
                return b"%"
            name = match["name"].decode()
            found.setdefault(name, _FORMATS[match["format"]])
            return b"$%d" % (list(found).index(name) + 1)

        text = _PLACEHOLDER.sub(number, self.text)
        return text, tuple(found), tuple(found.values())


class Queries:
    """The queries of one `.sql` file, by attribute.

    Args:
        package: the package that holds the file.
        file: the file's name in that package.

    Raises:
        InvariantViolated: a name occurs twice, or an unknown one is asked for.
    """

    def __init__(self, package: str, file: str) -> None:
        self._source = f"{package}/{file}"
        text = resources.files(package).joinpath(file).read_text("utf-8")
        self._queries = dict(_split(text, self._source))

    def __getattr__(self, name: str) -> Query:
        try:
            return self._queries[name]
        except KeyError:
            msg = f"no query named {name} in {self._source}"
            raise InvariantViolated(msg) from None

    def __iter__(self) -> Iterator[Query]:
        return iter(self._queries.values())


def _split(text: str, source: str) -> Iterator[tuple[str, Query]]:
    headers = list(_HEADER.finditer(text))
    seen: set[str] = set()
    for header, following in zip(headers, [*headers[1:], None], strict=True):
        name = header["name"]
        if name in seen:
            msg = f"query {name} occurs twice in {source}"
            raise InvariantViolated(msg)
        seen.add(name)
        end = following.start() if following else len(text)
        body = "\n".join(
            line
            for line in text[header.end() : end].splitlines()
            if line.strip() and not line.lstrip().startswith("--")
        )
        yield name, Query(name, body.encode())
