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
from importlib import resources
from typing import TYPE_CHECKING

from threadmill.errors import InvariantViolated

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = re.compile(r"^-- name: (?P<name>[a-z_][a-z0-9_]*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Query:
    """One named statement; `text` is bytes because it is never built at run time."""

    name: str
    text: bytes


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
