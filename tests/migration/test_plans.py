"""Every query goes through an index that begins with the tenant.

So a tenant pays for its own rows only, however many others have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.plans import become_application, plan_of, scans
from tests.migration.test_queries import files, name_of, queries_of

# Without tenants, and as many rows as there are processes or migrations.
_SMALL = {"worker", "migration"}

# Others, as those that begin a transaction, have no plan.
_PLANNED = {b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"WITH"}


@pytest.fixture
def application(fresh_database_uri: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(fresh_database_uri, autocommit=True) as connection:
        become_application(connection)
        yield connection


@pytest.mark.parametrize("file", files(), ids=name_of)
def test_every_query_is_led_by_the_tenant(
    application: psycopg.Connection, file: Path
) -> None:
    loose = {
        (query.name, scan.table, scan.index)
        for query in queries_of(file)
        if query.text.split()[0] in _PLANNED
        for scan in scans(plan_of(application, query))
        if scan.table not in _SMALL
        and not scan.table.startswith("pg_")
        and "tenant_id =" not in scan.condition
    }
    assert loose == set()
