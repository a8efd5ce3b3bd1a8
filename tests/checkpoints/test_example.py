"""The example of a plain LangGraph program runs as the documentation says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_langgraph.py"


def _run(**environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "DATABASE_URI"}
    return subprocess.run(
        [sys.executable, str(_EXAMPLE)],
        env=inherited | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_two_turns_of_a_plain_program(fresh_database_uri: str) -> None:
    finished = _run(DATABASE_URI=fresh_database_uri)
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    assert lines[:6] == [
        "Turn 1 - Messages: 2",
        "Turn 1 - Turn count: 1",
        "Turn 1 - Last message: Turn 1: Processed 'Hello'",
        "Turn 2 - Messages: 4",
        "Turn 2 - Turn count: 2",
        "Turn 2 - Last message: Turn 2: Processed 'Continue'",
    ]
    assert lines[6].startswith("10 checkpoints are stored as thread plain-")
    assert finished.returncode == 0


def test_without_a_database_it_says_what_to_set() -> None:
    finished = _run()
    assert finished.returncode == 1
    assert finished.stderr.startswith("set DATABASE_URI")
