"""What is done to the fleet: one function per kind of fault.

Each takes the arena, does its harm, takes it back and logs whom it befell and until
when. It returns when the harm is over, not when everybody has recovered.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import psutil

from chaos.arena import AFTERMATH_SECONDS, LEASE_SECONDS, WANTED, Arena, Outage, Skipped
from chaos.fleet import NotReadyError, Process
from chaos.proxy import Proxy
from threadmill.faults import POINTS

FaultOf = Callable[[Arena, str], Awaitable[None]]

_BEYOND_LEASE_SECONDS = LEASE_SECONDS + 2.5
_SKEW_SECONDS = 3600
_DOOM_SECONDS = 8.0
# Those that a worker comes by under this load; its graph has no effects, and a message
# broker is not always there.
_PASSED_BY_OTHERS: Final = ("accept.", "effect.", "publish.", "receive.", "ack.")
_POINTS: Final = sorted(p for p in POINTS if not p.startswith(_PASSED_BY_OTHERS))
_LOAD_SECONDS = 1.0
_RESETS = 8
_POLL_SECONDS = 0.05
_COMMITS = (5, 40)
_STANDS_STILL_SECONDS = 20.0
_LAGS_SECONDS = (0.5, 1.0)
# More than one slow connection carries before the first of them has waited too long.
_CROWD = 30
_SLOW_SECONDS = 0.03
_STARVED: Final = {
    "THREADMILL_POOL_MAX": "1",
    "THREADMILL_POOL_TIMEOUT_SECONDS": "1",
}
# Answers that were under way have come by then.
_LAST_ANSWERS_SECONDS = 1.0


@asynccontextmanager
async def befalls(
    arena: Arena, kind: str, process: Process | None, *, aftermath: float = 0.0
) -> AsyncIterator[None]:
    """Logs what happens inside; some feel it for some seconds longer."""
    at = arena.log.now()
    try:
        yield
    finally:
        until = arena.log.now() + aftermath
        pid = process.pid if process else None
        arena.log.fault(kind, at=at, until=until, pid=pid)


def _kill(role: str) -> FaultOf:
    async def strike(arena: Arena, kind: str) -> None:
        victim = await arena.victim(role)
        async with befalls(arena, kind, victim):
            await victim.kill()

    return strike


def _freeze(role: str, seconds: float) -> FaultOf:
    async def strike(arena: Arena, kind: str) -> None:
        victim = await arena.victim(role)
        async with befalls(arena, kind, victim, aftermath=AFTERMATH_SECONDS):
            victim.send(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            victim.send(signal.SIGCONT)

    return strike


async def freeze_in_commit(arena: Arena, kind: str) -> None:
    """A worker stands still right before a commit, and sends it when it wakes.

    By then its claims are others'. Were it frozen anywhere else, it would learn that
    first, and send nothing.
    """
    commit = arena.chooser.randint(*_COMMITS)
    worker = await arena.start(
        "worker", THREADMILL_FAULTS=f"commit.before=freeze@{commit}"
    )
    arena.leaving.add(worker.pid)
    try:
        async with asyncio.timeout(_STANDS_STILL_SECONDS):
            stopped = psutil.STATUS_STOPPED
            while psutil.Process(worker.pid).status() != stopped:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
        async with befalls(arena, kind, worker, aftermath=AFTERMATH_SECONDS):
            await asyncio.sleep(_BEYOND_LEASE_SECONDS)
            worker.send(signal.SIGCONT)
        await asyncio.sleep(_LOAD_SECONDS)
    except (TimeoutError, psutil.NoSuchProcess):
        pass  # it had too little to do, or something else has ended it
    worker.send(signal.SIGTERM)
    await worker.ended()


def _restart(how: signal.Signals) -> FaultOf:
    async def strike(arena: Arena, kind: str) -> None:
        at = arena.log.now()
        async with befalls(arena, kind, None, aftermath=AFTERMATH_SECONDS):
            await arena.postgres.primary.stop(how)
            arena.outages.append(Outage(kind, at, arena.log.now()))
            await arena.postgres.primary.start()

    return strike


async def fail_over(arena: Arena, kind: str) -> None:
    """A synchronous standby becomes the primary; what was acknowledged is there."""
    _needs_standby(arena)
    # A copy, then waiting with each commit: it is slower, but harms nobody.
    standby = await arena.postgres.stand_by()
    await asyncio.sleep(_LOAD_SECONDS)
    at = arena.log.now()
    async with befalls(arena, kind, None, aftermath=AFTERMATH_SECONDS):
        await arena.postgres.primary.stop(signal.SIGQUIT)
        arena.outages.append(Outage(kind, at, arena.log.now()))
        await arena.postgres.promote(standby)


async def fail_over_behind(arena: Arena, kind: str) -> None:
    """A standby that nobody waits for becomes the primary, and is some time behind.

    What was acknowledged in that time, and nothing else, may be gone: the log says
    when it was.
    """
    _needs_standby(arena)
    link = Proxy(arena.postgres.target, arena.chooser)
    await link.open()
    try:
        standby = await arena.postgres.follow(link.port)
        await asyncio.sleep(_LOAD_SECONDS)
        lags_at = arena.log.now()
        await arena.postgres.caught_up(standby)
        link.hang()
        await asyncio.sleep(arena.chooser.uniform(*_LAGS_SECONDS))
        at = arena.log.now()
        async with befalls(arena, kind, None, aftermath=AFTERMATH_SECONDS):
            await arena.postgres.primary.stop(signal.SIGQUIT)
            arena.outages.append(Outage(kind, at, arena.log.now()))
            # What hangs in it must not come to the standby after all.
            link.cut()
            await asyncio.sleep(_LAST_ANSWERS_SECONDS)
            arena.log.loss(at=lags_at, until=arena.log.now())
            arena.clients.may_lose = True
            await arena.postgres.promote(standby)
    finally:
        link.mend()
        link.close()


def _needs_standby(arena: Arena) -> None:
    if not arena.postgres.may_fail_over:
        why = "the PostgreSQL programs here have no pg_basebackup"
        raise Skipped(why)


async def reset_commits(arena: Arena, kind: str) -> None:
    """Connections break before or after a commit; who asked does not know which."""
    server, worker = await arena.victim("server"), await arena.victim("worker")
    ways = [arena.ways[victim.pid] for victim in (server, worker)]
    async with (
        befalls(arena, kind, server),
        befalls(arena, kind, worker, aftermath=AFTERMATH_SECONDS),
    ):
        for way in ways:
            way.resets = _RESETS
        await asyncio.sleep(2 * _LOAD_SECONDS)
        for way in ways:
            way.mend()


async def cut(arena: Arena, kind: str) -> None:
    """All connections of all processes break at once."""
    async with befalls(arena, kind, None, aftermath=AFTERMATH_SECONDS):
        for way in list(arena.ways.values()):
            way.cut()


async def slow(arena: Arena, kind: str) -> None:
    """Everything comes late, and in chunks of one byte."""
    victim = await arena.victim("worker")
    way = arena.ways[victim.pid]
    async with befalls(arena, kind, victim, aftermath=AFTERMATH_SECONDS):
        way.latency_seconds = 0.02
        await asyncio.sleep(2 * _LOAD_SECONDS)
        way.mend()


async def part(arena: Arena, kind: str) -> None:
    """Nothing passes between a worker and the database, beyond its lease."""
    victim = await arena.victim("worker")
    way = arena.ways[victim.pid]
    async with befalls(arena, kind, victim, aftermath=AFTERMATH_SECONDS):
        way.hang()
        await asyncio.sleep(_BEYOND_LEASE_SECONDS)
        way.mend()


async def exhaust(arena: Arena, kind: str) -> None:
    """Somebody takes all connections that the database has, after cutting a few."""
    async with befalls(arena, kind, None, aftermath=AFTERMATH_SECONDS):
        arena.ways[(await arena.victim("server")).pid].cut()
        arena.ways[(await arena.victim("worker")).pid].cut()
        await arena.postgres.occupy(2 * _LOAD_SECONDS)


async def starve(arena: Arena, kind: str) -> None:
    """A server and a worker have one connection each, a slow one, and much to do."""
    server = await arena.start("server", **_STARVED)
    worker = await arena.start("worker", **_STARVED)
    joined = (server, worker)
    ways = [arena.ways[process.pid] for process in joined]
    arena.leaving |= {process.pid for process in joined}
    async with (
        befalls(arena, kind, server),
        befalls(arena, kind, worker, aftermath=AFTERMATH_SECONDS),
    ):
        for way in ways:
            way.latency_seconds = _SLOW_SECONDS
        await arena.clients.crowd(server, _CROWD)
        arena.tell(kind, "messages to one server at once", _CROWD)
        refused = arena.clients.unavailable[server.url]
        arena.tell(kind, "times 503 with Retry-After", refused)
        for way in ways:
            way.mend()
    for process in joined:
        await _drains(process)


async def roll(arena: Arena, kind: str) -> None:
    """SIGTERM to one after the other, each replaced first. Nobody may notice.

    So no fault is logged: a node that is repeated is a violation.
    """
    del kind
    for role in ("worker", "server"):
        victim = await arena.victim(role)
        arena.leaving.add(victim.pid)
        while len(arena.crew(role)) <= WANTED[role]:
            if not victim.alive:
                return  # a poison node was faster
            await asyncio.sleep(_POLL_SECONDS)
        await _drains(victim)


async def _drains(process: Process) -> None:
    """SIGTERM; the process ends in order, or was killed by a node meanwhile."""
    process.send(signal.SIGTERM)
    code = await process.ended()
    if code not in {0, -signal.SIGKILL}:
        msg = f"a {process.role} did not drain: exit code {code}; see {process.log}"
        raise AssertionError(msg)


async def skew(arena: Arena, kind: str) -> None:
    """A worker whose time of day is an hour off joins; another one leaves for it.

    The first one is an hour late, the second one early, and so on.
    """
    leaves = await arena.victim("worker")
    off = _SKEW_SECONDS * (1 if arena.injected[kind] % 2 == 0 else -1)
    folder = os.fspath(arena.fleet.config.parents[1] / "skewed")
    # Whose source is under test may be told by that, too.
    folders = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {"PYTHONPATH": os.pathsep.join(folders), "CHAOS_CLOCK_SKEW_SECONDS": str(off)}
    await arena.start("worker", **env)
    arena.leaving.add(leaves.pid)
    leaves.send(signal.SIGTERM)
    await leaves.ended()
    await asyncio.sleep(2 * _LOAD_SECONDS)


async def kill_at_a_point(arena: Arena, kind: str) -> None:
    """A worker joins that dies at one of the code's own named points."""
    await kill_at_one_of(arena, kind, _POINTS)


async def kill_at_one_of(arena: Arena, kind: str, points: Sequence[str]) -> None:
    """A worker joins that dies at one of these."""
    point = arena.chooser.choice(points)
    times = arena.chooser.randint(1, 5)
    try:
        doomed = await arena.start("worker", THREADMILL_FAULTS=f"{point}=kill@{times}")
    except NotReadyError:
        # It was as quick as that, and had no work yet: nobody was harmed.
        arena.injected[kind] -= 1
        arena.tell(kind, "died before they were ready, not counted", 1)
        return
    async with befalls(arena, kind, doomed):
        try:
            await doomed.ended(_DOOM_SECONDS)
            arena.tell(kind, "died at their point", 1)
        except TimeoutError:
            arena.tell(kind, f"did not come by {point} so often, and were killed", 1)
            await doomed.kill()


def _message(kind_of_message: str, seconds: float) -> FaultOf:
    """The harm is done by a node, and logged by it where others may feel it.

    Args:
        kind_of_message: see `chaos/graphs/harm.py`.
        seconds: how long the harm takes, about.
    """

    async def strike(arena: Arena, kind: str) -> None:
        del kind
        arena.clients.harms.append(kind_of_message)
        while arena.clients.harms:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        await asyncio.sleep(seconds)

    return strike


async def separate(arena: Arena, kind: str) -> None:
    """A worker in a network namespace of its own, whose link goes down."""
    if os.geteuid() != 0:
        why = "network namespaces need root"
        raise Skipped(why)
    if shutil.which("ip") is None:
        why = "there is no `ip` (package iproute2)"
        raise Skipped(why)
    name = f"tm{os.getpid() % 100000}"
    async with _namespace(name) as address:
        worker = await arena.start(
            "worker", listen=address, prefix=f"ip netns exec {name}"
        )
        arena.leaving.add(worker.pid)
        await asyncio.sleep(_LOAD_SECONDS)
        async with befalls(arena, kind, worker, aftermath=AFTERMATH_SECONDS):
            await _ip("link", "set", f"{name}h", "down")
            await asyncio.sleep(_BEYOND_LEASE_SECONDS)
            await _ip("link", "set", f"{name}h", "up")
        await asyncio.sleep(_LOAD_SECONDS)
        worker.send(signal.SIGTERM)
        await worker.ended()


@asynccontextmanager
async def _namespace(name: str) -> AsyncIterator[str]:
    """A namespace with one link; yields the address of its other end, which is ours."""
    ours, theirs = f"{name}h", f"{name}n"
    third = os.getpid() % 250
    address = f"10.213.{third}.1"
    try:
        await _ip("netns", "add", name)
        await _ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
        await _ip("link", "set", theirs, "netns", name)
        await _ip("addr", "add", f"{address}/30", "dev", ours)
        await _ip("link", "set", ours, "up")
        inside = ("-n", name)
        await _ip(*inside, "addr", "add", f"10.213.{third}.2/30", "dev", theirs)
        await _ip(*inside, "link", "set", theirs, "up")
        await _ip(*inside, "link", "set", "lo", "up")
        yield address
    finally:
        for command in (("link", "del", ours), ("netns", "del", name)):
            await _ip(*command, must=False)


async def _ip(*arguments: str, must: bool = True) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await process.communicate()
    if must and process.returncode != 0:
        why = f"`ip {' '.join(arguments)}` is refused: {complaint.decode().strip()}"
        raise Skipped(why)


FAULTS: Final[Mapping[str, FaultOf]] = {
    "kill worker": _kill("worker"),
    "kill server": _kill("server"),
    "freeze worker": _freeze("worker", _BEYOND_LEASE_SECONDS),
    "freeze in mid-commit": freeze_in_commit,
    "freeze server": _freeze("server", 2 * _LOAD_SECONDS),
    "postgres fast restart": _restart(signal.SIGINT),
    "postgres immediate restart": _restart(signal.SIGQUIT),
    "postgres failover": fail_over,
    "postgres failover (asynchronous)": fail_over_behind,
    "reset in mid-commit": reset_commits,
    "all connections cut": cut,
    "late, in single bytes": slow,
    "partition (proxy)": part,
    "partition (namespace)": separate,
    "connections exhausted": exhaust,
    "own pool exhausted": starve,
    "rolling restart": roll,
    "clock an hour off": skew,
    "killed at a named point": kill_at_a_point,
    "event loop blocked": _message("block", LEASE_SECONDS + 1.5),
    "node holds the GIL": _message("gil", LEASE_SECONDS),
    "out of memory": _message("oom", 2.0),
    "poison node": _message("poison", 1.0),
    "5 MB state": _message("big", 0.5),
}
