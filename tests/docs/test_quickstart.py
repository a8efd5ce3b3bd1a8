"""The quickstart, followed to the letter: its files are written, its commands run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "quickstart.md"
BLOCK = re.compile(r"(?:`(\S+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
READY = re.compile(r"server\.ready.*?(http://[\w.:]+)")
# The environment that they would make is the one that the test runs in.
SET_UP = ("sudo apt install", "make setup")
_SECONDS = 60

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `file` if the page says that it is one's content."""

    file: str
    language: str
    text: str


def test_the_quickstart_works_as_it_is_written(postgres_dir: Path) -> None:
    folder = postgres_dir.parent
    blocks = [Block(*groups) for groups in BLOCK.findall(PAGE.read_text("utf-8"))]
    for block in blocks:
        if block.file:
            (folder / block.file).parent.mkdir(exist_ok=True)
            (folder / block.file).write_text(block.text, encoding="utf-8")
    commands = [b.text.strip() for b in blocks if b.language == "sh"]
    shown = iter([b.text for b in blocks if not b.language])
    for command in SET_UP:
        assert commands.pop(0).startswith(command)

    while commands:
        serve = commands.pop(0)
        with served(folder, serve) as url:
            while commands and commands[0] != serve:
                assert ran(folder, commands.pop(0), url) == next(shown)
    assert list(shown) == []


def test_the_quickstart_has_no_other_blocks() -> None:
    """A block of a kind that the test above does not know would not be tested."""
    for _, language, text in BLOCK.findall(PAGE.read_text("utf-8")):
        assert language in {"", "sh", "python", "json"}, text


@contextmanager
def served(folder: Path, command: str) -> Iterator[str]:
    """Runs `threadmill dev` as the page says, on a free port; ends it by Ctrl-C."""
    assert " dev " in command
    with subprocess.Popen(
        [*words(command), "--port", "0"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as dev:
        assert dev.stdout is not None
        printed = ""
        while (found := READY.search(printed)) is None:
            line = dev.stdout.readline()
            assert line, printed
            printed += line
        yield found[1]
        dev.send_signal(signal.SIGINT)
        dev.communicate(timeout=_SECONDS)
    assert dev.returncode == 0


def ran(folder: Path, command: str, url: str) -> str:
    done = subprocess.run(
        words(command),
        cwd=folder,
        env={**environment(), "THREADMILL_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def words(command: str) -> list[str]:
    """The command, with the programs of this environment for those of `.venv`."""
    program, *rest = shlex.split(command)
    return [str(Path(sys.executable).with_name(Path(program).name)), *rest]


def environment() -> dict[str, str]:
    dropped = {"DATABASE_URI", "POSTGRES_URI", "MOUNT_PREFIX", "LOG_LEVEL"}
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    return {**kept, "PYTHONUNBUFFERED": "1"}
