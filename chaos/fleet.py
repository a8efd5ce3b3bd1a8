"""Servers and workers as real processes over one database.

They are started as users start them, so they can be killed, frozen and restarted with
real signals. Each writes a log file of its own. The tests' `cluster` is made of this,
too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

PROGRAM = Path(sys.executable).with_name("threadmill")
READY_SECONDS = 60.0
POLL_SECONDS = 0.02
_LOG_SHOWN_CHARACTERS = 4000


class NotReadyError(AssertionError):
    """A process ended, or took too long, before it was ready."""


class Launched(Protocol):
    """What is needed of `asyncio.subprocess.Process`."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it lives."""
        ...

    def send_signal(self, number: int, /) -> None:
        """Sends a signal."""
        ...

    async def wait(self) -> int:
        """Waits for its end."""
        ...


@dataclass(eq=False)
class Process:
    """One `threadmill` process.

    Args:
        log: everything it writes.
    """

    role: str
    process: Launched
    log: Path
    url: str = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None

    def send(self, what: signal.Signals) -> None:
        """Sends a signal, if it still lives."""
        if self.alive:
            self.process.send_signal(what)

    async def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self.send(signal.SIGKILL)
        await self.process.wait()

    async def ended(self, seconds: float = 60.0) -> int:
        """Waits for the end and returns the exit code."""
        return await asyncio.wait_for(self.process.wait(), seconds)

    def said(self, event: str) -> bool:
        """Whether its log has this event."""
        return event in self.log.read_text(errors="replace")


@dataclass
class Fleet:
    """Processes over one database.

    Args:
        uri: of the database.
        config: langgraph.json that all serve.
        folder: where the logs go.
        env: settings of every process.
        prefix: a command that becomes each process by `exec`.
    """

    uri: str
    config: Path
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    servers: list[Process] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)
    _started: list[Process] = field(default_factory=list)

    async def start_server(self, **env: str) -> Process:
        """Starts a server; returns when it answers."""
        port = free_port()
        server = await self._start("serve", ["--port", str(port)], env)
        server.url = f"http://127.0.0.1:{port}"
        await self._until_logged(server, "server.ready")
        self.servers.append(server)
        return server

    async def start_worker(
        self, *, labels: str = "", prefix: Sequence[str] = (), **env: str
    ) -> Process:
        """Starts a worker; returns when it claims."""
        options = ["--labels", labels] if labels else []
        worker = await self._start("worker", options, env, prefix)
        await self._until_logged(worker, "worker.ready")
        self.workers.append(worker)
        return worker

    async def _start(
        self,
        role: str,
        options: Sequence[str],
        env: dict[str, str],
        prefix: Sequence[str] = (),
    ) -> Process:
        log = self.folder / f"{role}-{uuid4().hex[:6]}.log"
        process = await self._launch(
            [*self.prefix, *prefix],
            [role, "--config", str(self.config), *options],
            {
                **os.environ,
                "DATABASE_URI": self.uri,
                "LOG_JSON": "true",
                **self.env,
                **env,
            },
            log,
        )
        started = Process(role, process, log)
        self._started.append(started)
        return started

    async def _launch(
        self,
        prefix: Sequence[str],
        arguments: Sequence[str],
        env: Mapping[str, str],
        log: Path,
    ) -> Launched:
        """Starts the program; a test may start it in another way."""
        with log.open("wb") as out:
            return await asyncio.create_subprocess_exec(
                *(*prefix, str(PROGRAM), *arguments),
                env=env,
                stdout=out,
                stderr=out,
                stdin=asyncio.subprocess.DEVNULL,
            )

    async def _until_logged(self, process: Process, event: str) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not process.said(event):
                    # It may have been ready, and at work, before it ended.
                    if not process.alive and not process.said(event):
                        break
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    return
        except TimeoutError:
            pass
        await process.kill()
        text = process.log.read_text(errors="replace")[-_LOG_SHOWN_CHARACTERS:]
        msg = f"{process.role} did not become ready; its log:\n{text}"
        raise NotReadyError(msg)

    @property
    def processes(self) -> Sequence[Process]:
        """All that were started, the ended ones included."""
        return self._started

    async def close(self) -> None:
        """Kills whatever still runs."""
        for process in self._started:
            process.send(signal.SIGCONT)
            await process.kill()


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
