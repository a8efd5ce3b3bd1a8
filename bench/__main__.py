"""Runs the contenders in turn, round by round, and prints their ratios."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from rich.console import Console
from rich.table import Table

from bench import brokers, followers, redis, scaling, spread, storage
from bench.contenders import Contender, InProcess, Served, in_process, served
from bench.databases import new_database
from bench.flights import Flights, counting_proxy
from bench.spread import CASES, Shared, ask
from threadmill.drivers.embedded import EmbeddedPostgres

_NAMES = ("in-process", "burst", "node")
_CLIENTS = (1, 8, 32)
_TURNS_PER_CLIENT = 15
_STATS_SECONDS = 11
# What shares supersteps: how it is shown, its dispatch, workers and their slots.
_SHARING = (
    ("in-process", "", 0, 0),
    ("burst, 1 worker", "burst", 1, 10),
    ("burst, 3 workers", "burst", 3, 8),
    ("node, 2 workers", "node", 2, 10),
)


@dataclass
class Measured:
    """What one contender did."""

    latencies: list[float] = field(default_factory=list)
    per_second: dict[int, list[float]] = field(default_factory=dict)
    cpu: list[float] = field(default_factory=list)
    commits: float = 0.0
    wal: float = 0.0
    flights: float = 0.0


async def sequential(contender: Contender, turns: int, into: Measured) -> None:
    """One client, one turn after the other."""
    for _ in range(turns):
        started = time.perf_counter()
        await contender.turn()
        into.latencies.append(time.perf_counter() - started)


async def concurrent(
    contender: Contender, clients: int, turns: int, into: Measured
) -> None:
    """Many clients; each goes on as soon as it is answered."""
    left = turns

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await contender.turn()

    started, cpu = time.perf_counter(), contender.cpu_seconds()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - started
    into.per_second.setdefault(clients, []).append(turns / took)
    into.cpu.append((contender.cpu_seconds() - cpu) / turns)


async def count(
    contender: Contender, uri: str, flights: Flights, turns: int, into: Measured
) -> None:
    """Commits, WAL and round trips per turn, nothing timed."""
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as watch:
        before, seen = await _counters(watch), flights.count
        for _ in range(turns):
            await contender.turn()
        into.flights = (flights.count - seen) / turns
        after = await _counters(watch)
    into.commits = (after[0] - before[0]) / turns
    into.wal = (after[1] - before[1]) / turns


async def _counters(watch: psycopg.AsyncConnection) -> tuple[int, int]:
    # An idle session reports its last commits after ten seconds.
    await asyncio.sleep(_STATS_SECONDS)
    row = await (
        await watch.execute(
            "SELECT sum(xact_commit)::bigint, "
            "pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint "
            "FROM pg_stat_database WHERE datname LIKE 'bench%'"
        )
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


@asynccontextmanager
async def contenders(
    server: EmbeddedPostgres, folder: Path, port: int | None = None
) -> AsyncIterator[dict[str, Contender]]:
    """All three, each with a database of its own, reached through `port` if given."""
    async with AsyncExitStack() as stack:
        uris = {name: await new_database(server, name, port) for name in _NAMES}
        plain: Contender = await stack.enter_async_context(
            in_process(uris["in-process"])
        )
        found = {"in-process": plain}
        for dispatch in ("burst", "node"):
            place = folder / f"{dispatch}{port or ''}"
            place.mkdir()
            found[dispatch] = await stack.enter_async_context(
                served(uris[dispatch], dispatch, place)
            )
        yield found


async def run(args: argparse.Namespace, console: Console) -> dict[str, Measured]:
    """The whole benchmark."""
    results = {name: Measured() for name in _NAMES}
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedPostgres(Path(name) / "pg") as server,
    ):
        folder = Path(name)
        async with contenders(server, folder) as found:
            for number in range(args.rounds):
                console.print(f"round {number + 1} of {args.rounds}", style="dim")
                for key, contender in found.items():
                    await sequential(contender, args.turns, results[key])
                for clients in _CLIENTS:
                    for key, contender in found.items():
                        # Long enough that beginning and end do not count.
                        turns = max(args.turns * 2, clients * _TURNS_PER_CLIENT)
                        await concurrent(contender, clients, turns, results[key])
        console.print("counting commits, WAL and round trips", style="dim")
        own = urlsplit(server.tcp_uri).port
        assert own is not None
        async with (
            counting_proxy("127.0.0.1", own) as flights,
            contenders(server, folder, flights.port) as found,
        ):
            for key, contender in found.items():
                await count(
                    contender, server.tcp_uri, flights, args.turns, results[key]
                )
    return results


async def share(args: argparse.Namespace, console: Console) -> dict[str, list[Shared]]:
    """How supersteps are shared, by LangGraph alone and by workers."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedPostgres(Path(name) / "pg") as server,
    ):
        async with AsyncExitStack() as stack:
            found: dict[str, InProcess | Served] = {}
            for title, dispatch, workers, slots in _SHARING:
                place = Path(name) / title.replace(" ", "-").replace(",", "")
                place.mkdir()
                uri = await new_database(server, place.name if dispatch else title)
                found[title] = await stack.enter_async_context(
                    served(uri, dispatch, place, workers=workers, slots=slots)
                    if dispatch
                    else in_process(uri)
                )
            results = {title: [Shared() for _ in CASES] for title in found}
            for number in range(args.rounds * 2 + 1):
                console.print(
                    f"sharing, round {number} of {args.rounds * 2}", style="dim"
                )
                for title, contender in found.items():
                    for case, into in zip(CASES, results[title], strict=True):
                        # The first round warms up.
                        await ask(case, contender.ask, into if number else Shared())
    return results


async def store(args: argparse.Namespace) -> Mapping[str, storage.Stored]:
    """What long conversations cost in the database."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedPostgres(Path(name) / "pg") as server,
    ):
        uris = {
            storage.OURS: await new_database(server, "storage"),
            storage.THEIRS: await new_database(server, "in-process"),
        }
        async with storage.contenders(uris) as found:
            return await storage.measure(found, args.turns, whole=args.messages)


async def store_in_redis(args: argparse.Namespace) -> Mapping[str, storage.Stored]:
    """The savers that use Redis, and ours over PostgreSQL alone."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedPostgres(Path(name) / "pg") as server,
    ):
        uris = {
            redis.AWAY: await new_database(server, "away"),
            storage.OURS: await new_database(server, "storage"),
        }
        async with redis.contenders(uris) as found:
            return await storage.measure(found, args.turns, whole=args.messages)


def table(results: dict[str, Measured]) -> Table:
    """One column per contender; ratios to the first in brackets."""
    shown = Table(title="a turn of three nodes on a new thread")
    shown.add_column("")
    for name in _NAMES:
        shown.add_column(name, justify="right")
    base = results["in-process"]

    def row(title: str, values: Sequence[float], unit: str) -> None:
        first = values[0] or float("nan")
        cells = [f"{values[0]:.1f} {unit}"]
        cells += [f"{v:.1f} {unit} ({v / first:.2f}x)" for v in values[1:]]
        shown.add_row(title, *cells)

    every = [results[name] for name in _NAMES]
    row("p50", [statistics.median(m.latencies) * 1e3 for m in every], "ms")
    row("p95", [statistics.quantiles(m.latencies, n=20)[18] * 1e3 for m in every], "ms")
    for clients in _CLIENTS:
        row(
            f"runs/s, {clients} clients",
            [statistics.median(m.per_second[clients]) for m in every],
            "",
        )
    row("CPU per run", [statistics.median(m.cpu) * 1e3 for m in every], "ms")
    row("commits per run", [m.commits for m in every], "")
    row("round trips per run", [m.flights for m in every], "")
    row("WAL per run", [m.wal / 1024 for m in every], "KiB")
    assert base.latencies
    return shown


def main() -> None:
    """Parses the options and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all")
    parser.add_argument("--turns", type=int, default=40, help="turns per round")
    subjects = (
        "turns",
        "sharing",
        "storage",
        "redis",
        "scaling",
        "followers",
        "brokers",
    )
    parser.add_argument("--only", choices=subjects)
    parser.add_argument(
        "--messages", type=int, default=2000, help="of the thread that is weighed"
    )
    parser.add_argument(
        "--crowd", type=int, default=scaling.MANY, help="runs that sleep at once"
    )
    parser.add_argument(
        "--followers", type=int, default=followers.CLIENTS, help="who follow runs"
    )
    args = parser.parse_args()
    console = Console()
    if args.only in {None, "turns"}:
        console.print(table(asyncio.run(run(args, console))))
    if args.only in {None, "sharing"}:
        console.print(spread.table(asyncio.run(share(args, console))))
    if args.only in {None, "storage"}:
        console.print(storage.table(asyncio.run(store(args))))
    if args.only in {None, "redis"}:
        console.print(redis.table(asyncio.run(store_in_redis(args))))
    if args.only in {None, "scaling"}:
        with tempfile.TemporaryDirectory() as name:
            scaled = asyncio.run(scaling.measure(Path(name), args.crowd))
        console.print(scaling.table(*scaled, args.crowd))
    if args.only in {None, "followers"}:
        with tempfile.TemporaryDirectory() as name:
            followed = asyncio.run(followers.measure(Path(name), args.followers))
        console.print(followers.table(followed, args.followers))
    if args.only in {None, "brokers"}:
        with tempfile.TemporaryDirectory() as name:
            console.print(brokers.table(asyncio.run(brokers.measure(Path(name)))))


if __name__ == "__main__":
    main()
