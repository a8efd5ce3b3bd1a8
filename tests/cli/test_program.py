"""The program itself: help, usage errors, versions; and what it must not cost."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tests.cli.conftest import PROGRAM, Project
from threadmill import __version__
from threadmill.cli.program import COMMANDS, program

NOBODY = "00000000-0000-4000-8000-000000000000"
TOP = (
    "dev",
    "serve",
    "worker",
    "migrate",
    "doctor",
    "why",
    "dead-letters",
    "workers",
    "version",
)


def test_help_names_every_command_in_plain_text(project: Project) -> None:
    code, output = project.run("--help")
    assert code == 0
    assert all(f"\n  {name} " in output for name in TOP)
    assert output.isascii()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    words = [*command.split(), "--help"]
    answer = CliRunner().invoke(program(), words, prog_name="threadmill")
    assert answer.exit_code == 0
    assert f"Usage: threadmill {command} [OPTIONS]" in answer.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nonsense"], "nonsense"),
        (["serve", "--nonsense"], "--nonsense"),
        (["serve", "--port", "70000"], "--port"),
        (["worker", "--slots", "0"], "--slots"),
        (["why", "no-uuid"], "RUN_ID"),
        (["dead-letters", "redrive"], "--all"),
        (["dead-letters", "redrive", "--all", NOBODY], "--all"),
        (["dead-letters", "redrive", NOBODY, "--graph-id", "agent"], "--graph-id"),
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments: list[str], text: str) -> None:
    answer = CliRunner().invoke(program(), arguments)
    assert answer.exit_code == 2
    assert text in answer.output


def test_a_wrong_command_line_is_no_traceback(project: Project) -> None:
    code, output = project.run("nonsense")
    assert code == 2
    assert "Traceback" not in output


@pytest.mark.parametrize("no_color", ["", "1"])
def test_an_error_is_red_on_a_terminal_that_wants_colours(
    project: Project, no_color: str
) -> None:
    parent, terminal = pty.openpty()
    environ = project.environ | {"TERM": "xterm", "NO_COLOR": no_color}
    subprocess.run(
        [PROGRAM, "serve", "--config", "/nowhere"],
        env=environ,
        check=False,
        stderr=terminal,
    )
    os.close(terminal)
    shown = os.read(parent, 10_000).decode()
    os.close(parent)
    assert "no file /nowhere" in shown
    assert ("\x1b[31m" in shown) is not bool(no_color)


def test_version_tells_what_a_bug_report_needs(project: Project) -> None:
    code, output = project.run("version")
    assert code == 0
    versions = dict(line.split(" ", 1) for line in output.splitlines())
    assert versions["threadmill"] == __version__
    assert versions["langgraph"].startswith("1.2.")
    assert versions["python"].startswith(f"{sys.version_info[0]}.")
    assert versions["postgresql"].startswith("18.")


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from threadmill.cli.program import run\n"
        "run(['--help'])\n"
        "heavy = {'langgraph', 'fastapi', 'psycopg', 'uvicorn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL
    )


def test_the_program_is_where_make_setup_puts_it() -> None:
    assert PROGRAM.exists()
