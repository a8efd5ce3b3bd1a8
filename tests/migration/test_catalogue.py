"""The schema itself: tenants are apart, and nothing can look past that.

What is not bound to a tenant is named here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

# Tables without tenant data.
SYSTEM_TABLES = {"migration", "worker"}

# Functions that look across tenants; they return ids and numbers only.
DISPATCHER_FUNCTIONS = {
    "claim",
    "renew",
    "reopen",
    "due",
    "queues",
    "chunk_chores",
    "archive_lag",
    "taken",
    "retention_rounds",
}

# Indexes of those functions.
DISPATCHER_INDEXES = {
    "activation_ready",
    "activation_suspect",
    "activation_leased",
    "timer_due",
    "chunk_chore_due",
}

# Policies besides each table's own for its tenant.
DISPATCHER_TABLES = {"activation", "timer", "retention_round", "chunk_chore"}

# What analysts read.
VIEWS = {"history_checkpoints", "history_tasks", "history_runs"}

# Those that it counts only, and the columns that it counts by.
COUNTED_COLUMNS = {
    "thread": {"tenant_id"},
    "run": {"tenant_id", "run_id", "status", "not_before", "labels"},
    "dead_letter": {"tenant_id", "run_id"},
}

_TABLES = """
SELECT c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
       pg_get_userbyid(c.relowner) AS owner,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid
                  AND a.attname = 'tenant_id' AND a.attnotnull) AS has_tenant
  FROM pg_class c
 WHERE c.relnamespace = 'threadmill'::regnamespace AND c.relkind IN ('r', 'p')
"""
_INDEXES = """
SELECT t.relname AS table, i.relname AS name,
       (SELECT a.attname FROM pg_attribute a
         WHERE a.attrelid = t.oid AND a.attnum = x.indkey[0]) AS first_column
  FROM pg_index x
  JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
 WHERE t.relnamespace = 'threadmill'::regnamespace
"""
_POLICIES = """
SELECT tablename AS table, policyname AS name, roles::text[] AS roles, qual, with_check,
       permissive
  FROM pg_policies WHERE schemaname = 'threadmill'
"""
_FUNCTIONS = """
SELECT proname AS name, prosecdef AS definer, pg_get_userbyid(proowner) AS owner,
       proconfig AS config, has_function_privilege('public', oid, 'EXECUTE') AS public
  FROM pg_proc WHERE pronamespace = 'threadmill'::regnamespace
"""
_OTHERS = """
SELECT relname AS name, relkind AS kind, reloptions AS options FROM pg_class
 WHERE relnamespace = 'threadmill'::regnamespace AND relkind NOT IN ('r', 'p', 'i', 'S')
"""
_OWNED = """
SELECT objid::regclass::text AS name FROM pg_shdepend
 WHERE refobjid = 'threadmill_app'::regrole AND deptype = 'o'
"""
_TENANT_IS_MINE = "(tenant_id = threadmill.tenant())"


@pytest.fixture
def catalogue(database_uri: str) -> Iterator[psycopg.Connection[dict]]:
    """A superuser's connection that reads rows as dictionaries."""
    with psycopg.connect(
        database_uri, autocommit=True, row_factory=dict_row
    ) as connection:
        yield connection


def _tables(catalogue: psycopg.Connection[dict]) -> set[str]:
    found = {row["name"] for row in catalogue.execute(_TABLES)}
    return found - SYSTEM_TABLES


def test_every_table_but_the_system_tables_has_a_tenant_and_forced_security(
    catalogue: psycopg.Connection[dict],
) -> None:
    rows = {row["name"]: row for row in catalogue.execute(_TABLES)}
    assert set(rows) >= SYSTEM_TABLES
    for name, row in rows.items():
        bound = (row["has_tenant"], row["enabled"], row["forced"])
        assert bound == ((name not in SYSTEM_TABLES),) * 3, name


def test_every_index_begins_with_the_tenant(
    catalogue: psycopg.Connection[dict],
) -> None:
    loose = {
        row["name"]
        for row in catalogue.execute(_INDEXES)
        if row["table"] not in SYSTEM_TABLES and row["first_column"] != "tenant_id"
    }
    assert loose == DISPATCHER_INDEXES


def test_every_table_has_the_policy_of_its_tenant_and_no_other(
    catalogue: psycopg.Connection[dict],
) -> None:
    policies = list(catalogue.execute(_POLICIES))
    tenant = [row for row in policies if row["name"] == "tenant"]
    assert {row["table"] for row in tenant} == _tables(catalogue)
    for row in tenant:
        assert row["roles"] == ["threadmill_app"]
        assert row["qual"] == row["with_check"] == _TENANT_IS_MINE
        assert row["permissive"] == "PERMISSIVE"
    others = [row for row in policies if row["name"] != "tenant"]
    assert {row["table"] for row in others} == DISPATCHER_TABLES | set(COUNTED_COLUMNS)
    assert {role for row in others for role in row["roles"]} == {
        "threadmill_dispatcher"
    }


def test_the_dispatcher_counts_by_few_columns_and_reads_no_others(
    catalogue: psycopg.Connection[dict],
) -> None:
    for table, columns in COUNTED_COLUMNS.items():
        granted = {
            row["name"]
            for row in catalogue.execute(
                "SELECT attname AS name FROM pg_attribute"
                " WHERE attrelid = %(table)s::regclass AND attnum > 0 AND"
                " NOT attisdropped AND has_column_privilege("
                "'threadmill_dispatcher', %(table)s::regclass, attnum, 'SELECT')",
                {"table": f"threadmill.{table}"},
            )
        }
        assert granted == columns
        may_change = catalogue.execute(
            "SELECT has_any_column_privilege('threadmill_dispatcher', %(table)s,"
            " 'INSERT, UPDATE') OR has_table_privilege('threadmill_dispatcher',"
            " %(table)s, 'DELETE, TRUNCATE') AS may",
            {"table": f"threadmill.{table}"},
        ).fetchone()
        assert may_change == {"may": False}


def test_functions_that_see_all_tenants_are_few_and_of_the_dispatcher(
    catalogue: psycopg.Connection[dict],
) -> None:
    definers = [row for row in catalogue.execute(_FUNCTIONS) if row["definer"]]
    assert {row["name"] for row in definers} == DISPATCHER_FUNCTIONS
    for row in definers:
        assert row["owner"] == "threadmill_dispatcher"
        assert row["config"] == ["search_path=threadmill, pg_temp"]
        assert not row["public"]


def test_no_view_or_other_relation_goes_around_the_policies(
    catalogue: psycopg.Connection[dict],
) -> None:
    others = list(catalogue.execute(_OTHERS))
    assert {row["name"] for row in others} == VIEWS
    for row in others:
        # Who reads it is bound as if he read the tables.
        assert (row["kind"], row["options"]) == ("v", ["security_invoker=true"])


def test_the_roles_can_neither_log_in_nor_bypass_nor_own(
    catalogue: psycopg.Connection[dict],
) -> None:
    roles = catalogue.execute(
        "SELECT rolname, rolcanlogin OR rolsuper OR rolbypassrls OR rolcreaterole"
        " OR rolcreatedb OR rolreplication OR rolinherit AS may"
        " FROM pg_roles WHERE rolname IN ('threadmill_app', 'threadmill_dispatcher')"
    ).fetchall()
    assert [row["may"] for row in roles] == [False, False]
    assert list(catalogue.execute(_OWNED)) == []
    for role in ("threadmill_app", "threadmill_dispatcher"):
        may_create = catalogue.execute(
            "SELECT has_schema_privilege(%s, 'threadmill', 'CREATE') AS may", (role,)
        ).fetchone()
        assert may_create == {"may": False}


def test_without_a_tenant_every_table_reads_empty_and_refuses_writes(
    catalogue: psycopg.Connection[dict],
) -> None:
    """Also for the superuser's login, once it has taken the role."""
    catalogue.execute("SET session_replication_role = replica")  # no foreign keys
    for name in _tables(catalogue):
        catalogue.execute(_filler(catalogue, name), {"tenant": "somebody"})
    catalogue.execute("SET session_replication_role = origin")
    catalogue.execute("SET ROLE threadmill_app")
    for name in _tables(catalogue):
        table = Identifier("threadmill", name)
        assert catalogue.execute(SQL("TABLE {}").format(table)).fetchall() == [], name
        for change in ("UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}"):
            assert catalogue.execute(SQL(change).format(table)).rowcount == 0, name
        for tenant in ("somebody", ""):
            with pytest.raises(errors.InsufficientPrivilege, match="row-level"):
                catalogue.execute(_filler(catalogue, name), {"tenant": tenant})


def test_a_tenant_neither_sees_nor_touches_another(
    catalogue: psycopg.Connection[dict],
) -> None:
    catalogue.execute("SET session_replication_role = replica")  # no foreign keys
    for name in _tables(catalogue):
        for tenant in ("mine", "theirs"):
            catalogue.execute(_filler(catalogue, name), {"tenant": tenant})
    catalogue.execute("SET session_replication_role = origin")
    catalogue.execute("SET ROLE threadmill_app")
    catalogue.execute("SET threadmill.tenant = 'mine'")
    for name in _tables(catalogue):
        table = Identifier("threadmill", name)
        seen = catalogue.execute(SQL("SELECT tenant_id FROM {}").format(table))
        assert [row["tenant_id"] for row in seen] == ["mine"], name
        with pytest.raises(errors.InsufficientPrivilege, match="row-level"):
            catalogue.execute(SQL("UPDATE {} SET tenant_id = 'x'").format(table))
        with pytest.raises(errors.InsufficientPrivilege, match="row-level"):
            catalogue.execute(_filler(catalogue, name), {"tenant": "theirs"})


_COLUMNS = """
SELECT column_name AS name, data_type AS type FROM information_schema.columns
 WHERE table_schema = 'threadmill' AND table_name = %s AND is_nullable = 'NO'
   AND column_default IS NULL
"""
_SAMPLES = {
    "text": "'x'",
    "uuid": "'00000000-0000-0000-0000-000000000001'",
    "bigint": "1",
    "integer": "1",
    "smallint": "1",
    "jsonb": "'{}'",
    "bytea": "'x'",
    "timestamp with time zone": "now()",
    "double precision": "1",
    "boolean": "true",
}
# Columns whose values are checked.
_CHOSEN = {
    ("activation", "kind"): "'update'",
    ("timer", "kind"): "'promote'",
    ("chunk_chore", "kind"): "'drop'",
    ("effect", "state"): "'intent'",
    ("retention", "strategy"): "'delete'",
}


def _filler(catalogue: psycopg.Connection[dict], table: str) -> bytes:
    """An INSERT of one row with only what must be there, of `%(tenant)s`."""
    columns, values = [], []
    for column in catalogue.execute(_COLUMNS, (table,)):
        name = column["name"]
        sample = _CHOSEN.get((table, name), _SAMPLES[column["type"]])
        columns.append(name)
        values.append("%(tenant)s" if name == "tenant_id" else sample)
    statement = SQL("INSERT INTO {} ({}) VALUES (").format(
        Identifier("threadmill", table), SQL(", ").join(map(Identifier, columns))
    )
    return statement.as_bytes(catalogue) + ", ".join(values).encode() + b")"
