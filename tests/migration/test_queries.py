"""Every query of every .sql file fits the schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.pq import ExecStatus

import threadmill
from threadmill.drivers.postgres.sql import Queries

_SOURCE = Path(threadmill.__file__).parent


def files() -> list[Path]:
    found = sorted(_SOURCE.rglob("*.sql"))
    return [file for file in found if file.parent.name != "migrations"]


def name_of(file: Path) -> str:
    return str(file.relative_to(_SOURCE))


def queries_of(file: Path) -> Queries:
    package = ".".join(("threadmill", *file.parent.relative_to(_SOURCE).parts))
    return Queries(package, file.name)


@pytest.fixture
def application(database_uri: str) -> Iterator[psycopg.Connection]:
    """A connection in the role that every transaction takes."""
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute("SET ROLE threadmill_app")
        yield connection


@pytest.mark.parametrize("file", files(), ids=name_of)
def test_every_query_can_be_prepared(
    application: psycopg.Connection, file: Path
) -> None:
    """Tables, columns and types are those of the schema, and the role may use them."""
    refused = {}
    for query in queries_of(file):
        result = application.pgconn.prepare(b"", query.positional)
        if result.status != ExecStatus.COMMAND_OK:
            refused[query.name] = result.error_message.decode()
    assert refused == {}
    assert list(queries_of(file))


@pytest.mark.parametrize("file", files(), ids=name_of)
def test_every_query_is_used(file: Path) -> None:
    """A name that no module mentions is dead."""
    code = "\n".join(path.read_text("utf-8") for path in file.parent.glob("*.py"))
    names = {query.name for query in queries_of(file)}
    assert {n for n in names if not re.search(rf"\.{n}\b", code)} == set()


_NAMES_TENANT = re.compile(rb"%\(tenants?\)s|threadmill\.(?:claim|renew|reopen|due)\(")
_TENANT_TABLE = re.compile(
    rb"threadmill\.(?:assistant|thread|run|idempotency|timer|activation|head"
    rb"|checkpoint|checkpoint_write|chunk|stream|event|superstep|dead_letter|effect)\b(?!\()"
)


@pytest.mark.parametrize("file", files(), ids=name_of)
def test_every_query_on_tenant_data_names_the_tenant(file: Path) -> None:
    """Row-level security is the second fence, not the first."""
    silent = [
        query.name
        for query in queries_of(file)
        if _TENANT_TABLE.search(query.text) and not _NAMES_TENANT.search(query.text)
    ]
    assert silent == []
