"""What a command cannot start with: one clear line, exit code 1, no traceback."""

from __future__ import annotations

import signal
import socket
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.cli.conftest import Project

NOWHERE = "postgresql://me:secret@127.0.0.1:1/nowhere"


def refusal(project: Project, *arguments: str, **environ: str) -> str:
    """Run a command that must refuse; give its one error line."""
    code, output = project.run(*arguments, **environ)
    assert code == 1, output
    # A graph's own traceback is an event of the log.
    assert not any(line.startswith("Traceback") for line in output.splitlines())
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert output.splitlines()[-1] == error
    return error


@pytest.mark.parametrize("command", ["serve", "worker", "migrate"])
def test_without_a_database_the_setting_is_named(
    project: Project, command: str
) -> None:
    assert "DATABASE_URI is not set" in refusal(project, command)


@pytest.mark.parametrize("command", ["serve", "worker", "dev"])
def test_without_langgraph_json_the_file_is_named(
    project: Project, command: str
) -> None:
    (project.root / "langgraph.json").unlink()
    error = refusal(project, command)
    assert str(project.root / "langgraph.json") in error
    assert "--config" in error


def test_every_wrong_setting_is_named_without_secrets(project: Project) -> None:
    code, output = project.run(
        "serve", THREADMILL_SLOTS="many", DATABASE_URI="mysql://me:secret@host/db"
    )
    assert code == 1
    assert "THREADMILL_SLOTS" in output
    assert "DATABASE_URI" in output
    assert "secret" not in output


@pytest.mark.parametrize("command", ["serve", "dev"])
def test_a_taken_port_names_the_option(project: Project, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        error = refusal(project, command, "--port", port, DATABASE_URI=NOWHERE)
    assert f"127.0.0.1:{port}" in error
    assert "--port" in error


def test_a_server_does_not_serve_openly_what_was_meant_to_be_protected(
    project: Project,
) -> None:
    project.config(auth={"path": "./auth.py:auth"})
    error = refusal(project, "serve", DATABASE_URI=NOWHERE)
    assert "'auth'" in error
    assert "unauthenticated" in error


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_missing_schema_names_the_command_that_makes_it(
    project: Project, postgres_uri: str, command: str
) -> None:
    port = ["--port", "0"] if command == "serve" else []
    error = refusal(project, command, *port, DATABASE_URI=postgres_uri)
    assert "`threadmill migrate`" in error


def test_an_older_schema_is_refused_as_well(served: Project) -> None:
    with psycopg.connect(served.environ["DATABASE_URI"], autocommit=True) as connection:
        connection.execute("DELETE FROM threadmill.migration")
    assert "`threadmill migrate`" in refusal(served, "worker")


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_login_without_the_grant_is_told_it(
    project: Project, service_uri: str, command: str
) -> None:
    error = refusal(project, command, DATABASE_URI=service_uri)
    assert "GRANT threadmill_app TO" in error


@pytest.mark.parametrize("command", ["serve", "worker", "dev"])
def test_a_direct_uri_that_leads_to_another_database_is_refused(
    served: Project, postgres_uri: str, command: str
) -> None:
    port = [] if command == "worker" else ["--port", "0"]
    error = refusal(served, command, *port, DATABASE_URI_DIRECT=postgres_uri)
    assert "DATABASE_URI_DIRECT leads to another database" in error


def test_a_direct_uri_that_is_refused_is_named(served: Project) -> None:
    wrong = urlsplit(served.environ["DATABASE_URI"])._replace(path="/nothing").geturl()
    error = refusal(served, "worker", DATABASE_URI_DIRECT=wrong)
    assert 'database "nothing" does not exist; check DATABASE_URI_DIRECT' in error


@pytest.mark.slow
def test_a_database_that_stays_away_is_waited_for_a_while(project: Project) -> None:
    error = refusal(project, "worker", DATABASE_URI=NOWHERE)
    assert "127.0.0.1:1/nowhere" in error
    assert "Connection refused" in error
    assert "secret" not in error


def test_the_wait_for_a_database_can_be_given_up(project: Project) -> None:
    worker = project.start("worker", DATABASE_URI=NOWHERE)
    assert worker.event("database.unreachable")["cause"] == "Connection refused"
    worker.signal(signal.SIGINT)
    assert worker.ended() == -signal.SIGINT
    assert "Traceback" not in worker.output


def test_a_worker_without_any_graph_names_the_causes(served: Project) -> None:
    served.file("broken.py", "import nothing_of_this_name")
    served.config({"one": "./broken.py:graph", "two": "./broken.py:graph"})
    error = refusal(served, "worker")
    assert "'one': ModuleNotFoundError" in error
    assert "'two': ModuleNotFoundError" in error


def test_a_worker_without_slots_is_refused(served: Project) -> None:
    assert "--slots" in refusal(served, "worker", THREADMILL_SLOTS="0")


def test_more_slots_than_a_process_can_have_are_refused(project: Project) -> None:
    error = refusal(project, "worker", "--slots", "99999999999999999999")
    assert "--slots" in error
    assert "10000" in error


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "doctor"])
def test_a_password_that_is_not_escaped_is_refused_and_not_shown(
    project: Project, command: str
) -> None:
    uri = "postgresql://me:pass/phrase@127.0.0.1:1/nowhere"
    code, output = project.run(command, DATABASE_URI=uri)
    assert code == 1
    assert "percent-encode" in output
    assert "phrase" not in output
