"""Keeps one child serving, and starts it anew whenever the sources change.

A child that cannot start (langgraph.json is broken, say) has said why; the next change
is waited for. One that had served, or that a signal killed, is started again, after a
pause and a bounded number of times: what kills it may be in the sources.

The sources are looked at before a child starts, so that a change that it may not have
seen restarts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from threadmill.cli.life import Stop, live
from threadmill.cli.lifeline import ask_to_stop, hand_over
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
# More than the attempts of a run: what kills every process that runs it is over then.
_DEATHS_MAX: Final = 10
_FIRST_PAUSE_SECONDS: Final = 0.25
_PAUSE_SECONDS_MAX: Final = 4.0
# Who lived so long did not die of what killed the one before it.
_SOUND_SECONDS: Final = 60.0


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
        self._uri = uri.get_secret_value()
        # What a node prints is seen when it is printed.
        self._environ = os.environ | {"PYTHONUNBUFFERED": "1"}
        self._config = project.config.path
        self._slots = "" if slots is None else str(slots)
        self._listener = listener
        self._on_ready = on_ready

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        """The process while the block runs; then it drains, or is killed."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = await self._start(theirs)
            theirs.close()
            hand_over(ours, self._uri)
            news = asyncio.create_task(self._pass_on(ours))
            try:
                yield Running(process, news)
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

    async def _pass_on(self, line: socket.socket) -> bool:
        """Passes on what the child serves; False if it ended before it served."""
        loop = asyncio.get_running_loop()
        line.settimeout(0)
        text = b""
        while not text.endswith(b"\n"):
            more = await loop.sock_recv(line, 65536)
            if not more:
                return False
            text += more
        self._on_ready(json.loads(text))
        return True


@dataclass(frozen=True, slots=True)
class Running:
    """A child's process.

    Args:
        process: of the system.
        news: True once it served; it ends with the process.
    """

    process: asyncio.subprocess.Process
    news: asyncio.Task[bool]

    async def death(self) -> Death:
        """Waits until it ends by itself."""
        code = await self.process.wait()
        return Death(code, served=await self.news)


@dataclass(frozen=True, slots=True)
class Death:
    """How a child ended that nobody had asked to.

    Args:
        code: its exit code; negative for a signal.
        served: whether it had been ready.
    """

    code: int
    served: bool

    @property
    def sudden(self) -> bool:
        """Whether its successor may do better, with the same sources."""
        return self.served or self.code < 0


class Deaths:
    """Counts deaths in a row, and says how long the next start waits."""

    def __init__(self) -> None:
        self._count = 0

    def pause_seconds(self, death: Death, *, lived_seconds: float) -> float | None:
        """Before the next start; None when only a change of the sources may help."""
        self._count = 1 if lived_seconds > _SOUND_SECONDS else self._count + 1
        if not death.sudden or self._count > _DEATHS_MAX:
            return None
        doublings = float(2 ** (self._count - 1))
        return min(_FIRST_PAUSE_SECONDS * doublings, _PAUSE_SECONDS_MAX)


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
        current, deaths = config, Deaths()
        while not asked.done():
            current = _read_again(current)
            sources = Sources(current, () if ignored is None else (ignored,))
            changed = asyncio.create_task(sources.changed())
            async with child.running() as running:
                await _until_over(running, deaths, changed, asked)
            if changed.done():
                deaths = Deaths()
            changed.cancel()

    return live(main, grace_seconds=2 * _STOP_SECONDS)


async def _until_over(
    running: Running,
    deaths: Deaths,
    changed: asyncio.Task[Sequence[Path]],
    asked: asyncio.Task[None],
) -> None:
    """Returns when the child must end or be replaced."""
    started_at = time.monotonic()
    died = asyncio.create_task(running.death())
    await asyncio.wait({died, changed, asked}, return_when=asyncio.FIRST_COMPLETED)
    if not changed.done() and not asked.done():
        death = died.result()
        pause = deaths.pause_seconds(death, lived_seconds=time.monotonic() - started_at)
        remedy = "waiting for a change" if pause is None else "starting it again"
        _log.error("dev.ended", code=death.code, remedy=remedy)
        await asyncio.wait(
            {changed, asked}, timeout=pause, return_when=asyncio.FIRST_COMPLETED
        )
    died.cancel()
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
