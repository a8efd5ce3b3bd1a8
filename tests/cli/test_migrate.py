"""`migrate`: what it applied, what it needs, and several at once."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from tests.cli.conftest import Project
from threadmill import PostgresSaver
from threadmill.testing.checkpoints import checkpoint


@pytest.fixture
def empty(project: Project, postgres_uri: str) -> Project:
    project.environ["DATABASE_URI"] = postgres_uri
    return project


def test_it_says_what_it_applied_where_and_then_that_all_is_done(
    empty: Project,
) -> None:
    code, output = empty.run("migrate")
    assert code == 0
    assert "applied 0001_initial" in output
    parts = psycopg.conninfo.conninfo_to_dict(empty.environ["DATABASE_URI"])
    assert str(parts["dbname"]) in output
    assert str(parts["password"]) not in output
    code, output = empty.run("migrate")
    assert (code, output.splitlines()[-1]) == (0, "up to date")


def test_it_rewrites_old_checkpoints_and_says_how_far_it_is(
    project: Project, database_uri: str
) -> None:
    project.environ["DATABASE_URI"] = database_uri
    with PostgresSaver.from_conn_string(database_uri) as saver:
        saver._checkpoints.codec.whole = True
        for number in range(40):
            at: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
            made = checkpoint(f"c{number}", messages=["word " * 100] * number)
            saver.put(at, made, {}, {})
    code, output = project.run("migrate", "--repack")
    assert code == 0, output
    told = [line for line in output.splitlines() if "repacked" in line]
    assert [line.split()[1] for line in told] == ["32", "40"]
    code, output = project.run("migrate", "--repack")
    assert (code, "repacked" in output) == (0, False)


def test_several_at_once_apply_everything_once(empty: Project) -> None:
    """Neither needs a langgraph.json."""
    (empty.root / "langgraph.json").unlink()
    programs = [empty.start("migrate") for _ in range(3)]
    assert [program.ended() for program in programs] == [0, 0, 0]
    outputs = [program.output for program in programs]
    for migration in ("0001_initial", "0002_task_sessions"):
        assert sum(f"applied {migration}" in output for output in outputs) == 1


@pytest.fixture
def second_owner(postgres_uri: str) -> Iterator[str]:
    """Give the URI of the owner of a database in a cluster that has the roles."""
    name, password = f"owner_{secrets.token_hex(4)}", secrets.token_hex(16)
    parts = urlsplit(postgres_uri)
    database = Identifier(parts.path.removeprefix("/"))
    create = SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}")
    own = SQL("ALTER DATABASE {} OWNER TO {}")
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute(create.format(Identifier(name), Literal(password)))
        connection.execute(own.format(database, Identifier(name)))
    host = parts.netloc.rpartition("@")[2]
    yield parts._replace(netloc=f"{name}:{password}@{host}").geturl()
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        reassign = SQL("REASSIGN OWNED BY {} TO CURRENT_USER; DROP OWNED BY {}; ")
        drop = SQL("DROP ROLE {}")
        connection.execute(reassign.format(Identifier(name), Identifier(name)))
        connection.execute(drop.format(Identifier(name)))


def test_a_second_database_of_a_cluster_names_the_grant_that_its_owner_needs(
    project: Project, second_owner: str, fresh_database_uri: str
) -> None:
    with psycopg.connect(fresh_database_uri, autocommit=True) as superuser:
        # Before 16, whoever may create roles may also grant every one of them.
        if superuser.info.server_version >= 160000:
            code, output = project.run("migrate", DATABASE_URI=second_owner)
            assert code == 1
            roles = "threadmill_app, threadmill_dispatcher"
            owner = urlsplit(second_owner).username
            grant = f"GRANT {roles} TO {owner} WITH ADMIN OPTION"
            assert output.splitlines()[-1].endswith(grant)
            superuser.execute(grant.encode())
    code, output = project.run("migrate", DATABASE_URI=second_owner)
    assert code == 0, output


def test_langgraph_json_may_name_the_database(
    project: Project, postgres_uri: str
) -> None:
    project.file(".env", f"DATABASE_URI={postgres_uri}\n")
    project.config(env=".env")
    assert project.run("migrate")[0] == 0
