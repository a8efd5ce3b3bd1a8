"""`migrate`: what it applied, what it needs, and several at once."""

from __future__ import annotations

import psycopg
import pytest

from tests.cli.conftest import Project


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
    assert f"/{parts['dbname']}" in output
    assert str(parts["password"]) not in output
    code, output = empty.run("migrate")
    assert (code, output.splitlines()[-1]) == (0, "up to date")


def test_several_at_once_apply_everything_once(empty: Project) -> None:
    """Neither needs a langgraph.json."""
    (empty.root / "langgraph.json").unlink()
    programs = [empty.start("migrate") for _ in range(3)]
    assert [program.ended() for program in programs] == [0, 0, 0]
    outputs = [program.output for program in programs]
    assert sum("applied 0001_initial" in output for output in outputs) == 1
    assert sum("up to date" in output for output in outputs) == 2


def test_langgraph_json_may_name_the_database(
    project: Project, postgres_uri: str
) -> None:
    project.file(".env", f"DATABASE_URI={postgres_uri}\n")
    project.config(env=".env")
    assert project.run("migrate")[0] == 0
