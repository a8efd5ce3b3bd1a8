"""The program itself: help, usage errors, versions; and what it must not cost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import PROGRAM, Project
from threadmill import __version__

COMMANDS = ("dev", "serve", "worker", "migrate", "doctor", "version")


def test_help_names_every_command_in_plain_text(project: Project) -> None:
    code, output = project.run("--help")
    assert code == 0
    assert all(f"\n  {name} " in output for name in COMMANDS)
    assert output.isascii()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(project: Project, command: str) -> None:
    code, output = project.run(command, "--help")
    assert code == 0
    assert f"Usage: threadmill {command} [OPTIONS]" in output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nonsense"], "nonsense"),
        (["serve", "--nonsense"], "--nonsense"),
        (["serve", "--port", "70000"], "--port"),
        (["worker", "--slots", "0"], "--slots"),
    ],
)
def test_a_wrong_command_line_exits_with_2(
    project: Project, arguments: list[str], text: str
) -> None:
    code, output = project.run(*arguments)
    assert code == 2
    assert text in output
    assert "Traceback" not in output


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
