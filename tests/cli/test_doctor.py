"""`doctor`: green where all is well, and each line says how to mend what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.cli.conftest import Project
from threadmill.drivers.embedded import EmbeddedPostgres
from threadmill.drivers.postgres.migrate import migrate


@pytest.fixture
def durable(project: Project, postgres_dir: Path) -> Iterator[Project]:
    """Give a project over a server as one would run it: with fsync."""
    with EmbeddedPostgres(postgres_dir) as server:
        asyncio.run(migrate(server.uri))
        project.environ["DATABASE_URI"] = server.uri
        yield project


def test_all_is_well(durable: Project) -> None:
    code, output = durable.run("doctor")
    assert code == 0, output
    assert {line[0] for line in output.splitlines()} == {"✓"}
    assert any("forced on" in line for line in output.splitlines())

    uri = durable.environ["DATABASE_URI"]
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("ALTER TABLE threadmill.run DISABLE ROW LEVEL SECURITY")
    code, output = durable.run("doctor", "--json", DATABASE_URI_DIRECT=uri)
    assert code == 1
    report = json.loads(output)
    failed = [c for c in report["checks"] if c["verdict"] != "ok"]
    assert not report["ok"]
    assert [c["check"] for c in failed] == ["row-level security"]
    assert "threadmill.run ENABLE ROW LEVEL SECURITY" in failed[0]["remedy"]


def test_a_login_without_the_grant_is_told_it_and_a_bad_direct_uri_is_named(
    project: Project, fresh_database_uri: str, service_uri: str
) -> None:
    nowhere = "postgresql://me:secret@127.0.0.1:1/nowhere"
    options = ("doctor", "--json")
    databases = {"DATABASE_URI": service_uri, "DATABASE_URI_DIRECT": nowhere}
    _, output = project.run(*options, **databases)
    checks = {c["check"]: c for c in json.loads(output)["checks"]}
    assert checks["database"]["verdict"] == "ok"
    assert "GRANT threadmill_app TO" in checks["roles"]["remedy"]
    assert "127.0.0.1:1/nowhere" in checks["sessions"]["detail"]
    assert "DATABASE_URI_DIRECT" in checks["sessions"]["remedy"]

    with psycopg.connect(fresh_database_uri, autocommit=True) as superuser:
        login = urlsplit(service_uri).username
        superuser.execute(f"GRANT threadmill_app TO {login}".encode())
    _, output = project.run(*options, DATABASE_URI=service_uri)
    checks = {c["check"]: c for c in json.loads(output)["checks"]}
    # It may become the role and inherits nothing of it: that is enough.
    assert checks["roles"]["verdict"] == "ok"
    assert checks["schema"]["verdict"] == "ok"


def test_everything_that_is_wrong_is_told_at_once(project: Project) -> None:
    project.file("broken.py", "import nothing_of_this_name")
    project.config(
        {"agent": "./agent.py:graph", "broken": "./broken.py:graph"}, auth={"path": "x"}
    )
    code, output = project.run(
        "doctor",
        DATABASE_URI="postgresql://me:secret@127.0.0.1:1/nowhere",
        THREADMILL_SLOT="1",
        PYTHONIOENCODING="ascii",
    )
    assert code == 1
    # A line of advice begins with blanks.
    lines = [line for line in output.splitlines() if not line.startswith(" ")]
    verdicts = {line[5:25].strip(): line[:4].strip() for line in lines}
    assert verdicts["langgraph.json"] == "FAIL"
    assert verdicts["settings"] == "warn"
    assert verdicts["graph agent"] == "ok"
    assert verdicts["graph broken"] == "FAIL"
    assert verdicts["database"] == "FAIL"
    assert verdicts["roles"] == "skip"
    assert "127.0.0.1:1/nowhere" in output
    assert "secret" not in output
    assert "Traceback" not in output


def test_it_also_helps_where_there_is_nothing_yet(project: Project) -> None:
    (project.root / "langgraph.json").unlink()
    code, output = project.run("doctor")
    assert code == 1
    assert "DATABASE_URI is not set" in output
    assert str(project.root / "langgraph.json") in output


def test_a_redis_that_cannot_keep_copies_of_streams_is_told(
    durable: Project, redis_uri: str
) -> None:
    def streams(**env: str) -> tuple[str, str]:
        _, output = durable.run("doctor", "--json", **env)
        found = {c["check"]: c for c in json.loads(output)["checks"]}["streams"]
        return found["verdict"], found["detail"]

    assert streams() == ("ok", "from PostgreSQL")
    assert streams(STREAM_URI=redis_uri)[0] == "ok"
    verdict, detail = streams(STREAM_URI="redis://:secret@127.0.0.1:1/0")
    assert (verdict, "secret" in detail) == ("warning", False)
    wrong = redis_uri.replace("://:", "://:not-")
    assert streams(STREAM_URI=wrong)[0] == "failed"


def test_a_redis_that_cannot_keep_values_is_told(
    durable: Project, redis_uri: str
) -> None:
    def checkpoints(**env: str) -> dict[str, str]:
        _, output = durable.run("doctor", "--json", **env)
        found = {c["check"]: c for c in json.loads(output)["checks"]}
        return dict(found["checkpoints"])

    assert checkpoints()["detail"] == "PostgreSQL keeps them"
    kept = checkpoints(CHECKPOINT_URI=redis_uri)
    assert (kept["verdict"], kept["detail"]) == ("ok", "Redis keeps what they hold")
    nowhere = checkpoints(CHECKPOINT_URI="redis://:secret@127.0.0.1:1/0")
    assert nowhere["verdict"] == "failed"
    assert "secret" not in str(nowhere)
    unread = checkpoints(CHECKPOINT_URI="postgresql://127.0.0.1/x")
    assert "CHECKPOINT_URI" in unread["detail"]
