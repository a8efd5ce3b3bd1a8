"""What the battery harms, and what it needs for that: the fleet, kept complete.

A process that ends is replaced, as an orchestrator would do, however it came to its
end. Each process has a way to the database of its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.aside import Aside
from chaos.clients import Clients
from chaos.fleet import Fleet, NotReadyError, Process
from chaos.memory import MemoryWatch
from chaos.postgres import Postgres
from chaos.proxy import Proxy
from threadmill.testing.history import HistoryLog

#: How many there are of each role.
WANTED: Final = {"server": 2, "worker": 3}
LEASE_SECONDS: Final = 5
#: How long after a fault somebody may still feel it.
AFTERMATH_SECONDS: Final = 3.0
_KEEP_SECONDS: Final = 0.1
_STAFFED_SECONDS: Final = 90.0
# Most faults hit a worker in the middle of a node, if one begins so soon.
_AT_WORK_SHARE: Final = 0.8
_AT_WORK_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.003
_HERE: Final = Path(__file__).parent
_SETTINGS: Final = {
    "THREADMILL_LEASE_SECONDS": str(LEASE_SECONDS),
    "THREADMILL_RENEW_SECONDS": "1",
    "THREADMILL_POOL_MAX": "6",
    # A fan-out is wider than one worker: its tasks spread over all of them.
    "THREADMILL_SLOTS": "3",
    "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS": "20",
    "RESUMABLE_STREAM_TTL_SECONDS": "1000000",
    "LOG_LEVEL": "INFO",
    "CHAOS_GIL_SECONDS": str(LEASE_SECONDS + 3),
}


class Skipped(Exception):
    """This machine cannot do that; the message says why."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which nobody had a database.

    Args:
        at: when the fault began.
        down_at: when the database was certainly gone.
    """

    kind: str
    at: float
    down_at: float


@dataclass
class Arena:
    """Everything that can be harmed.

    Args:
        folder: logs of processes and of the history.
        postgres: started and migrated.
        chooser: seeded.
        broker: started, if the fleet has one.
        chunks: the Redis that keeps what checkpoints hold, started, if there is one.
    """

    folder: Path
    postgres: Postgres
    chooser: random.Random
    broker: Aside | None = None
    chunks: Aside | None = None
    injected: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Counter[str]] = field(default_factory=dict)
    outages: list[Outage] = field(default_factory=list)
    ways: dict[int, Proxy] = field(default_factory=dict)
    leaving: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Opens the logs; starts nothing."""
        (self.folder / "once").mkdir()
        setpriv = shutil.which("setpriv")
        self.fleet = Fleet(
            self.postgres.primary.uri,
            _HERE / "graphs" / "langgraph.json",
            self.folder,
            env={
                **_SETTINGS,
                "CHAOS_NODES": str(self.folder / "nodes.jsonl"),
                "CHAOS_ONCE": str(self.folder / "once"),
            },
            # Nobody is left over when the battery itself is killed.
            prefix=(setpriv, "--pdeathsig", "KILL") if setpriv else (),
        )
        self.log = self.open_log("faults")
        self.memory = MemoryWatch(self.log)
        self.clients = Clients(
            self.fleet.servers, self.open_log("clients"), self.chooser
        )

    def open_log(self, name: str) -> HistoryLog:
        """A log of the history; all use the clock that all processes share."""
        return HistoryLog(self.folder / f"{name}.jsonl", clock=time.monotonic)

    @property
    def logs(self) -> Sequence[Path]:
        """The logs of the history that were written."""
        names = ("clients", "faults", "nodes")
        return [p for name in names if (p := self.folder / f"{name}.jsonl").exists()]

    def tell(self, kind: str, what: str, times: int) -> None:
        """Something for the report, to be counted."""
        self.notes.setdefault(kind, Counter())[what] += times

    # ------------------------------------------------------------------- processes

    async def start(
        self, role: str, *, listen: str = "127.0.0.1", **how: str
    ) -> Process:
        """Starts a server or a worker with a way of its own.

        Args:
            role: server or worker.
            listen: the address of the way.
            how: further settings; `prefix` is a command before it.
        """
        way = Proxy(self.postgres.target, self.chooser)
        await way.open(listen)
        uri = f"postgresql://postgres@{listen}:{way.port}/postgres"
        prefix = how.pop("prefix", "").split()
        besides = {
            aside: await aside.way(listen, self.chooser) for aside in self.asides
        }
        for aside, to in besides.items():
            how |= aside.env(to.port, listen)
        try:
            if role == "server":
                process = await self.fleet.start_server(DATABASE_URI=uri, **how)
            else:
                # Both kinds at once: they commit the same checkpoints.
                how["THREADMILL_DISPATCH"] = self.chooser.choice(("burst", "node"))
                process = await self.fleet.start_worker(
                    prefix=prefix, DATABASE_URI=uri, **how
                )
                self.memory.bound(process)
        except NotReadyError:
            for opened in (way, *besides.values()):
                opened.close()
            raise
        self.ways[process.pid] = way
        for aside, to in besides.items():
            aside.ways[process.pid] = to
        return process

    @property
    def asides(self) -> Sequence[Aside]:
        """What there is beside PostgreSQL."""
        return [aside for aside in (self.broker, self.chunks) if aside is not None]

    def mend_ways(self) -> None:
        """Everything passes again, everywhere."""
        for way in self._every_way():
            way.mend()

    def _every_way(self) -> Sequence[Proxy]:
        besides = [way for aside in self.asides for way in aside.ways.values()]
        return [*self.ways.values(), *besides]

    def crew(self, role: str) -> list[Process]:
        """The servers or the workers."""
        return self.fleet.servers if role == "server" else self.fleet.workers

    async def victim(self, role: str) -> Process:
        """One of them; of the workers, mostly one where a node has begun just now."""
        if role == "worker" and self.chooser.random() < _AT_WORK_SHARE:
            nodes = self.folder / "nodes.jsonl"
            size = _size(nodes)
            with suppress(TimeoutError):
                async with asyncio.timeout(_AT_WORK_SECONDS):
                    while _size(nodes) == size:  # noqa: ASYNC110
                        await asyncio.sleep(_LOOK_SECONDS)
            last = _last_pid(nodes)
            for process in self._staying(role):
                if process.alive and process.pid == last:
                    return process
        while not (alive := [p for p in self._staying(role) if p.alive]):
            # A poison node may just have ended all of them.
            await self.staffed()
        return self.chooser.choice(alive)

    async def keep(self) -> None:
        """Replaces who has ended, for ever."""
        starting: dict[str, set[asyncio.Task[None]]] = {
            "server": set(),
            "worker": set(),
        }
        async with asyncio.TaskGroup() as group:
            while True:
                for role, wanted in WANTED.items():
                    self._bury(role)
                    begun = starting[role]
                    begun -= {task for task in begun if task.done()}
                    for _ in range(wanted - len(self._staying(role)) - len(begun)):
                        begun.add(group.create_task(self._replace(role)))
                self.memory.look(self.fleet.workers)
                await asyncio.sleep(_KEEP_SECONDS)

    def _staying(self, role: str) -> list[Process]:
        return [p for p in self.crew(role) if p.pid not in self.leaving]

    def _bury(self, role: str) -> None:
        for process in [p for p in self.crew(role) if not p.alive]:
            self.crew(role).remove(process)
            self.memory.bury(process)
            for ways in (self.ways, *(aside.ways for aside in self.asides)):
                if way := ways.pop(process.pid, None):
                    way.close()

    async def _replace(self, role: str) -> None:
        try:
            await self.start(role)
        except NotReadyError:
            # The database may be away, or somebody's harm has hit it: the next look
            # starts another one.
            await asyncio.sleep(_KEEP_SECONDS)

    async def staffed(self, *, wholly: bool = False) -> None:
        """Returns when there are two of each role, so that one may be harmed.

        Args:
            wholly: wait for all instead.
        """
        async with asyncio.timeout(_STAFFED_SECONDS):
            while any(  # noqa: ASYNC110
                sum(p.alive for p in self.crew(role)) < (number if wholly else 2)
                for role, number in WANTED.items()
            ):
                await asyncio.sleep(_KEEP_SECONDS)

    async def close(self) -> None:
        """Ends everything."""
        await self.fleet.close()
        for way in self._every_way():
            way.close()
        self.memory.close()
        self.log.close()
        self.clients.log.close()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _last_pid(nodes: Path) -> int | None:
    """The process of the last line that a node has logged."""
    try:
        with nodes.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1000))
            line = file.read().splitlines()[-1]
    except (FileNotFoundError, IndexError):
        return None
    _, found, rest = line.partition(b'"pid": ')
    number = rest.split(b",")[0].rstrip(b"}")
    return int(number) if found and number.isdigit() else None
