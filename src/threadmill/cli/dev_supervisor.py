"""Keeps one child serving, and starts it anew whenever the sources change.

A child that cannot start (langgraph.json is broken, say) has said why; the next change
is waited for. The sources are looked at before a child starts, so that a change that it
may not have seen restarts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from threadmill.cli.life import Stop, live
from threadmill.cli.lifeline import ask_to_stop
from threadmill.cli.sources import Sources
from threadmill.config import LangGraphConfig, load_config
from threadmill.errors import BadSetting

if TYPE_CHECKING:
    from threadmill.cli.project import Project

_log = structlog.get_logger(__name__)

_CHILD: Final = "threadmill.cli.dev_child"
# A child drains in one second and waits half of one for threads.
_STOP_SECONDS: Final = 3.0
_NAMES_SHOWN_MAX: Final = 3


class Child:
    """How the process that serves is started.

    Args:
        project: whose settings name a database.
        slots: of the command line.
        listener: what it inherits to listen on.
        on_ready: told what it serves.
    """

    def __init__(
        self,
        project: Project,
        slots: int | None,
        listener: socket.socket,
        *,
        on_ready: Callable[[Mapping[str, Any]], None],
    ) -> None:
        uri = project.settings.database_uri
        assert uri is not None  # noqa: S101 - dev has seen to it
        self._environ = os.environ | {
            "DATABASE_URI": uri.get_secret_value(),
            # What a node prints is seen when it is printed.
            "PYTHONUNBUFFERED": "1",
        }
        self._config = project.config.path
        self._slots = "" if slots is None else str(slots)
        self._listener = listener
        self._on_ready = on_ready

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """The process while the block runs; then it drains, or is killed."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = await self._start(theirs)
            theirs.close()
            news = asyncio.create_task(self._pass_on(ours))
            try:
                yield process
            finally:
                news.cancel()
                ask_to_stop(ours)
                await _end(process)

    async def _start(self, line: socket.socket) -> asyncio.subprocess.Process:
        descriptors = (line.fileno(), self._listener.fileno())
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            _CHILD,
            str(self._config),
            self._slots,
            *map(str, descriptors),
            env=self._environ,
            pass_fds=descriptors,
        )

    async def _pass_on(self, line: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        line.settimeout(0)
        text = b""
        while not text.endswith(b"\n"):
            more = await loop.sock_recv(line, 65536)
            if not more:
                return
            text += more
        self._on_ready(json.loads(text))


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        _log.warning("dev.killed", why="it did not end in time; a node may be stuck")
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def supervise(config: LangGraphConfig, child: Child, *, ignored: Path | None) -> int:
    """Keeps the child serving until the process is asked to end; gives the exit code.

    Args:
        config: the project, as last read.
        child: what is started.
        ignored: a folder in the project that holds no source.
    """

    async def main(stop: Stop) -> None:
        asked = asyncio.create_task(stop.heeded())
        current = config
        while not asked.done():
            current = _read_again(current)
            sources = Sources(current, () if ignored is None else (ignored,))
            changed = asyncio.create_task(sources.changed())
            async with child.running() as process:
                await _until_over(process, changed, asked)
            changed.cancel()

    return live(main, grace_seconds=2 * _STOP_SECONDS)


async def _until_over(
    process: asyncio.subprocess.Process,
    changed: asyncio.Task[Sequence[Path]],
    asked: asyncio.Task[None],
) -> None:
    """Returns when the child must end or be replaced."""
    ended = asyncio.create_task(process.wait())
    await asyncio.wait({ended, changed, asked}, return_when=asyncio.FIRST_COMPLETED)
    if not changed.done() and not asked.done():
        _log.error("dev.ended", code=ended.result(), remedy="waiting for a change")
        await asyncio.wait({changed, asked}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if changed.done():
        names = [path.name for path in changed.result()]
        more = ["..."] if len(names) > _NAMES_SHOWN_MAX else []
        _log.info("dev.restarting", changed=names[:_NAMES_SHOWN_MAX] + more)


def _read_again(config: LangGraphConfig) -> LangGraphConfig:
    """The project as it is now, or as it was while langgraph.json is broken."""
    try:
        # What it warns of, and its errors, the child says.
        return load_config(config.path, warn=lambda _: None)
    except BadSetting:
        return config
