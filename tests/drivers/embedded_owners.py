"""Owners of an embedded PostgreSQL as real processes, and how to see them end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg

from threadmill.drivers.embedded.layout import Layout

AS_ROOT = os.geteuid() == 0
GONE_SECONDS = 30.0

OWNER = """
import sys
from pathlib import Path
from threadmill.drivers.embedded import EmbeddedPostgres

server = EmbeddedPostgres(Path(sys.argv[1]), fsync=False)
print(server.start(), server.tcp_uri, flush=True)
sys.stdin.read()
server.stop()
"""


def query(uri: str, sql: str) -> Any:
    with psycopg.connect(uri, connect_timeout=5) as connection:
        row = connection.execute(sql.encode()).fetchone()
    return row[0] if row else None


def keep_a_row(uri: str) -> None:
    with psycopg.connect(uri, connect_timeout=5) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "pgdata/postmaster.pid").read_text().split()[0])


def supervisor_pid(data_dir: Path) -> int:
    running = Layout(data_dir).running()
    assert running is not None
    return running.pid


class Gone:
    """Handles on processes, taken while they live, that tell when all have ended.

    A handle is not fooled by a number that is used again, nor by a zombie whose parent
    is slow to ask for it.
    """

    def __init__(self, *pids: int, children: Iterable[int] = ()) -> None:
        self._handles = [os.pidfd_open(pid) for pid in pids]
        for pid in children:
            # A session that just closed may have ended since it was listed.
            with suppress(ProcessLookupError):
                self._handles.append(os.pidfd_open(pid))

    def wait(self) -> None:
        for handle in self._handles:
            assert select.select([handle], [], [], GONE_SECONDS)[0], "still runs"
            os.close(handle)


def server_gone(data_dir: Path) -> Gone:
    """Watch the server with all its children, and the supervisor."""
    server = psutil.Process(postmaster_pid(data_dir))
    children = [child.pid for child in server.children()]
    return Gone(server.pid, supervisor_pid(data_dir), children=children)


class OwnerProcess:
    """A process that owns the server of `data_dir` until its standard input ends."""

    def __init__(
        self,
        data_dir: Path,
        *,
        program: str = OWNER,
        python: str = sys.executable,
        path: Path | None = None,
        uid: int | None = None,
    ) -> None:
        environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
        self.process = subprocess.Popen(
            [python, "-c", program, data_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        assert self.process.stdout
        assert self.process.stderr
        answer = self.process.stdout.readline().split()
        assert answer, self.process.stderr.read()
        self.uri, self.tcp_uri = answer

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        with self.process:
            _, complaint = self.process.communicate(timeout=GONE_SECONDS)
        assert self.process.returncode in {0, -signal.SIGKILL}, complaint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.close()
