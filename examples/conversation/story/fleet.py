"""Real servers and workers, each a process with a log file, on ports of their own.

Nothing is simulated: these are the commands that a deployment runs. `Fleet` starts them
and ends them, whatever happens in between.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from story.journal import NAME_VARIABLE, PATH_VARIABLE

PROGRAM = Path(sys.executable).with_name("threadmill")
CONFIG = Path(__file__).with_name("langgraph.json")

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1
# The fleet has one database and one address: what else is set is not for it.
_NOT_INHERITED = {"DATABASE_URI_DIRECT", "POSTGRES_URI", "MOUNT_PREFIX"}


class NotStarted(Exception):
    """A process ended or stayed silent instead of getting ready."""


@dataclass(slots=True)
class Member:
    """One process of the fleet."""

    name: str
    log: Path
    process: Process

    @property
    def pid(self) -> int:
        """The process that a signal goes to."""
        return self.process.pid

    async def kill(self) -> None:
        """SIGKILL: the process gets no chance to say goodbye."""
        self.process.kill()
        await self.process.wait()


@dataclass(slots=True)
class Server(Member):
    """A server, and the stock SDK's client of it."""

    url: str
    client: LangGraphClient


class Fleet:
    """Starts processes and ends them all.

    Args:
        folder: for the log files.
        database_uri: which all processes share.
        journal: where nodes write down that they run.
    """

    def __init__(self, folder: Path, database_uri: str, journal: Path) -> None:
        self._folder = folder
        self._environment = {
            **{k: v for k, v in os.environ.items() if k not in _NOT_INHERITED},
            "DATABASE_URI": database_uri,
            "LOG_JSON": "true",
            "PYTHONUNBUFFERED": "1",
            PATH_VARIABLE: str(journal),
        }
        self._members: list[Member] = []

    async def server(self, name: str) -> Server:
        """Starts a server; returns when it answers."""
        member, ready = await self._start(
            name, ["serve", "--port", "0"], ready="server.ready"
        )
        url = str(ready["url"])
        client = get_client(url=url, api_key=None)
        return Server(name, member.log, member.process, url, client)

    async def worker(self, name: str) -> Member:
        """Starts a worker; returns when it looks for work."""
        member, _ = await self._start(name, ["worker"], ready="worker.ready")
        return member

    async def stop(self) -> None:
        """Ends every process: politely, then not."""
        alive = [m for m in self._members if m.process.returncode is None]
        for member in alive:
            member.process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await asyncio.gather(*(m.process.wait() for m in alive))
        except TimeoutError:
            await asyncio.gather(
                *(m.kill() for m in alive if m.process.returncode is None)
            )

    async def _start(
        self, name: str, command: Sequence[str], *, ready: str
    ) -> tuple[Member, dict[str, Any]]:
        """A process, and the log line that says that it is ready."""
        log = self._folder / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as output:
            before = output.tell()
            process = await asyncio.create_subprocess_exec(
                PROGRAM,
                *command,
                "--config",
                CONFIG,
                env={**self._environment, NAME_VARIABLE: name},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for the demo, which then ends its processes in order.
                start_new_session=True,
                preexec_fn=_dying_with_parent(),
            )
        member = Member(name, log, process)
        self._members.append(member)
        try:
            async with asyncio.timeout(_START_SECONDS):
                while (line := _logged(log, before, ready)) is None:
                    if process.returncode is not None:
                        raise NotStarted(f"{name} ended at its start: see {log}")
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            raise NotStarted(f"{name} did not start in time: see {log}") from None
        return member, line


def _logged(log: Path, after: int, event: str) -> dict[str, Any] | None:
    """The first log line of that event after a position."""
    for line in log.read_bytes()[after:].split(b"\n")[:-1]:
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("event") == event:
                return entry
    return None


def _dying_with_parent() -> Callable[[], None] | None:
    """What makes a new process end when the demo itself is killed (Linux only)."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask
