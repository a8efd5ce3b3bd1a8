"""The program as its users run it: real processes, real signals, real projects."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

PROGRAM = Path(sys.executable).with_name("threadmill")
# Two cores are shared by everything that a test run starts.
PATIENCE_SECONDS = 60.0

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

ECHO = """
    from typing import TypedDict
    from langgraph.graph import START, StateGraph

    class State(TypedDict):
        name: str

    async def answer(state: State) -> State:
        return {"name": "first"}

    builder = StateGraph(State)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph = builder.compile()
"""


def _die_with_the_tests() -> None:
    """Let the kernel end a program whose test run was killed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Program:
    """A running `threadmill`, with everything that it wrote so far.

    Args:
        arguments: of the command line.
        folder: where it runs.
        environ: its whole environment.
    """

    def __init__(
        self, arguments: tuple[str, ...], folder: Path, environ: Mapping[str, str]
    ) -> None:
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [PROGRAM, *arguments],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C reaches it as from a terminal: the whole group, and only it.
            process_group=0,
            preexec_fn=_die_with_the_tests,  # noqa: PLW1509 - one call, no lock
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._lines.append("")
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        with self._news:
            return "".join(self._lines)

    def line(self, *parts: str, after: int = 0) -> str:
        """Wait for a line that holds all `parts`, `after` so many others like it."""

        def found() -> list[str]:
            lines = [line for line in self._lines if all(p in line for p in parts)]
            return lines[after:]

        with self._news:
            self._news.wait_for(
                lambda: found() or self._lines[-1:] == [""], PATIENCE_SECONDS
            )
            lines = found()
        assert lines, f"no line with {parts} in:\n{self.output}"
        return lines[0]

    def event(self, name: str, *, after: int = 0) -> dict:
        """Wait for an event of the log."""
        return json.loads(self.line(f'"event": "{name}"', after=after))

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        if group:
            os.killpg(self.pid, number)
        else:
            self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end and give the exit code."""
        try:
            code = self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running:\n{self.output}")
        self._reader.join(PATIENCE_SECONDS)
        return code

    def end(self) -> int:
        self.signal(signal.SIGTERM)
        return self.ended()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def kill(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self._process.poll() is None:
            for process in [*self.descendants(), psutil.Process(self.pid)]:
                process.kill()
        self._process.wait()
        self._reader.join(PATIENCE_SECONDS)


class Project:
    """A folder with a langgraph.json, in which the program runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("THREADMILL_", "DATABASE_", "POSTGRES_", "LOG_"))
        }
        self.environ["LOG_JSON"] = "true"
        self._programs: list[Program] = []

    def file(self, name: str, source: str) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(source))
        return file

    def config(self, graphs: Mapping[str, str] | None = None, **keys: object) -> None:
        """Write langgraph.json; without `graphs`, one that answers with a name."""
        if graphs is None:
            self.file("agent.py", ECHO)
            graphs = {"agent": "./agent.py:graph"}
        self.file("langgraph.json", json.dumps({"graphs": graphs, **keys}))

    def start(self, *arguments: str, **environ: str) -> Program:
        program = Program(arguments, self.root, self.environ | environ)
        self._programs.append(program)
        return program

    def run(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Run to the end; give the exit code and everything that was written."""
        program = self.start(*arguments, **environ)
        return program.ended(), program.output

    def close(self) -> None:
        for program in self._programs:
            program.kill()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that sends no line."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Give a project with one graph; its programs end with the test."""
    project = Project(tmp_path)
    project.config()
    yield project
    project.close()


@pytest.fixture
def served(project: Project, fresh_database_uri: str) -> Project:
    """Give a project whose DATABASE_URI is a migrated database."""
    project.environ["DATABASE_URI"] = fresh_database_uri
    return project


@pytest.fixture
def service_uri(fresh_database_uri: str) -> Iterator[str]:
    """Give the URI of a login of a migrated database that was granted nothing."""
    name, password = f"service_{secrets.token_hex(4)}", secrets.token_hex(16)
    create = SQL("CREATE ROLE {} LOGIN NOINHERIT PASSWORD {}")
    with psycopg.connect(fresh_database_uri, autocommit=True) as connection:
        connection.execute(create.format(Identifier(name), Literal(password)))
    parts = urlsplit(fresh_database_uri)
    host = parts.netloc.rpartition("@")[2]
    yield parts._replace(netloc=f"{name}:{password}@{host}").geturl()
    with psycopg.connect(fresh_database_uri, autocommit=True) as connection:
        connection.execute(SQL("DROP ROLE {}").format(Identifier(name)))


@pytest.fixture
def free_port() -> int:
    """Give a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
