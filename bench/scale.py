"""`make bench-scale`: what many threads that are there already cost those that come.

Two databases of one server, each with a server and a worker of its own: one next to
empty, the other one filled with copies of a conversation of ten checkpoints, all of one
tenant. The same is asked of both, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psutil
import psycopg
from psycopg import sql
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.contenders import Served, served
from bench.databases import new_database
from bench.graphs import INPUT
from threadmill.drivers.embedded import EmbeddedPostgres

EMPTY: Final = "empty"
FULL: Final = "full"
_TURNS: Final = 2
_FEW: Final = 30
_PER_USER: Final = 10
_BATCH: Final = 20_000
_TEMPLATE: Final = UUID(int=1)
# Where a thread's rows are; what a run has left in none of them is over soon.
_TABLES: Final = ("thread", "run", "head", "checkpoint", "checkpoint_write", "chunk")


def _id(of: str) -> str:
    """Ids rise, so that copying appends to indexes; what is asked for is drawn."""
    return f"(lpad(to_hex(n), 8, '0') || substr(md5({of} || n), 9))::uuid"


_NUMBERED: Final = {
    "thread_id": _id("'thread'"),
    "run_id": _id("'run' || t.run_id::text"),
    "end_checkpoint_id": "t.end_checkpoint_id",
    "created_at": "t.created_at - n * interval '1 s'",
    "updated_at": "t.updated_at - n * interval '1 s'",
}
_AIM: Final = 1.2


@dataclass
class Asked:
    """Seconds that each question took."""

    seconds: dict[str, list[float]] = field(default_factory=dict)


async def fill(uri: str, threads: int, progress: Progress, title: str) -> None:
    """Copies the template thread so often.

    Triggers and foreign keys stand aside: copies are as whole as what they are made of.

    Args:
        uri: of a superuser.
        threads: how many there are afterwards.
        progress: shows how far it is.
        title: what it shows.
    """
    task = progress.add_task(title, total=threads)
    async with await psycopg.AsyncConnection.connect(
        uri, autocommit=True
    ) as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("SET synchronous_commit = off")
        # Plans for a table that grows.
        await connection.execute("SET enable_seqscan = off")
        copies = [await _copy(connection, table) for table in _TABLES]
        for first in range(1, threads + 1, _BATCH):
            last = min(first + _BATCH - 1, threads)
            for copy in copies:
                await connection.execute(copy, {"first": first, "last": last})
            await connection.execute(_FACETS, {"first": first, "last": last})
            progress.advance(task, last - first + 1)
        await connection.execute("RESET synchronous_commit")
        await connection.execute("VACUUM ANALYZE")
        # What is measured must not wait for what copying has left to be written.
        await connection.execute("CHECKPOINT")


_FACETS: Final = sql.SQL("""
INSERT INTO threadmill.facet (tenant_id, thread_id, key, value, created_at)
SELECT t.tenant_id, t.thread_id, f.key, f.value, t.created_at
  FROM generate_series({first}::int, {last}::int) n
  JOIN threadmill.thread t
    ON t.tenant_id = 'default' AND t.thread_id = {thread},
       threadmill.facets(t.metadata) f
""").format(
    first=sql.Placeholder("first"),
    last=sql.Placeholder("last"),
    thread=sql.SQL(_NUMBERED["thread_id"]),  # type: ignore[arg-type]
)


async def _copy(connection: psycopg.AsyncConnection, table: str) -> sql.Composed:
    """The statement that copies a table's rows of the template."""
    found = await connection.execute(
        "SELECT attname, atttypid::regtype::text FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        (f"threadmill.{table}",),
    )
    columns = await found.fetchall()
    values = [_value(table, str(name), str(kind)) for name, kind in columns]
    return sql.SQL(
        "INSERT INTO threadmill.{table} ({names}) SELECT {values}"
        " FROM threadmill.{table} t, generate_series({first}::int, {last}::int) n"
        " WHERE t.tenant_id = 'default' AND t.thread_id = {template}"
    ).format(
        table=sql.Identifier(table),
        names=sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns),
        values=sql.SQL(", ").join(values),
        first=sql.Placeholder("first"),
        last=sql.Placeholder("last"),
        template=sql.Literal(str(_TEMPLATE)),
    )


def _value(table: str, column: str, kind: str) -> sql.SQL | sql.Composed:
    if table == "thread" and column == "metadata":
        user = f"t.metadata || jsonb_build_object('user', n / {_PER_USER})"
        return sql.SQL(user)  # type: ignore[arg-type]
    if column in _NUMBERED:
        return sql.SQL(f"({_NUMBERED[column]})::{kind}")  # type: ignore[arg-type]
    return sql.SQL("t.{}").format(sql.Identifier(column))


async def template(contender: Served) -> None:
    """The conversation that is copied."""
    for _ in range(_TURNS):
        await contender.client.runs.wait(
            str(_TEMPLATE), "bench", input=INPUT, if_not_exists="create"
        )


def questions(
    contender: Served, threads: int, chance: random.Random
) -> Mapping[str, Callable[[], Awaitable[Any]]]:
    """What is asked, by name."""
    client = contender.client

    def thread() -> str:
        return _thread(chance.randint(1, threads))

    def user() -> int:
        return chance.randrange(1, threads // _PER_USER)

    async def found(expected: int, **asked: Any) -> None:
        shown = await client.threads.search(limit=_PER_USER, **asked)
        assert len(shown) == expected, (asked, len(shown))

    async def history() -> None:
        states = await client.threads.get_history(thread(), limit=10)
        assert len(states) == 10, len(states)

    return {
        "turn on a new thread": contender.turn,
        "turn on an old thread": lambda: client.runs.wait(
            thread(), "bench", input=INPUT
        ),
        "search: newest": lambda: found(_PER_USER),
        "search: by a user's entry": lambda: found(
            _PER_USER, metadata={"user": user()}
        ),
        "search: a graph's, last changed": lambda: found(
            _PER_USER, metadata={"graph_id": "bench"}, sort_by="updated_at"
        ),
        "search: interrupted": lambda: found(0, status="interrupted"),
        "history, 10 states": history,
    }


def _thread(number: int) -> str:
    from hashlib import md5

    rest = md5(f"thread{number}".encode()).hexdigest()[8:]  # noqa: S324
    return str(UUID(f"{number:08x}{rest}"))


async def measure(
    found: Mapping[str, tuple[Served, int]], rounds: int, console: Console
) -> Mapping[str, Asked]:
    """Asks both, in turn; the first round warms up."""
    results = {name: Asked() for name in found}
    asked = {
        name: questions(contender, threads, random.Random(7))  # noqa: S311
        for name, (contender, threads) in found.items()
    }
    for number in range(rounds + 1):
        if number % 20 == 0:
            console.print(f"round {number} of {rounds}", style="dim")
        for question in asked[EMPTY]:
            for name in found:
                started = time.perf_counter()
                await asked[name][question]()
                took = time.perf_counter() - started
                if number:
                    results[name].seconds.setdefault(question, []).append(took)
    return results


def table(results: Mapping[str, Asked], size: str) -> Table:
    """Both, and the ratios of the medians and of the slowest hundredth."""
    shown = Table(title=f"next to empty, and full: {size}")
    shown.add_column("")
    for heading in ("empty, p50", "full, p50", "", "empty, p99", "full, p99", ""):
        shown.add_column(heading, justify="right")
    for question, few in results[EMPTY].seconds.items():
        cells: list[str] = []
        for rank in (50, 99):
            one, many = (
                _percentile(seconds, rank)
                for seconds in (few, results[FULL].seconds[question])
            )
            cells += [f"{one * 1e3:.1f} ms", f"{many * 1e3:.1f} ms"]
            cells.append(f"{many / one:.2f}x")
        shown.add_row(question, *cells)
    shown.caption = f"aim: {_AIM}x"
    return shown


def _percentile(seconds: Sequence[float], rank: int) -> float:
    return statistics.quantiles(seconds, n=100)[rank - 1]


def _memory() -> Mapping[str, str]:
    """A quarter of the machine's, as PostgreSQL's manual advises for a database.

    With as little as its default, the copies' random keys are written to disk over and
    over while they are made.
    """
    quarter = psutil.virtual_memory().total // 4
    return {"shared_buffers": f"{quarter >> 20}MB", "max_wal_size": "16GB"}


async def run(threads: int, rounds: int, console: Console) -> Table:
    """Fills, asks, and gives the table."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedPostgres(Path(name) / "pg", settings=_memory()) as server,
    ):
        async with AsyncExitStack() as stack:
            found: dict[str, tuple[Served, int]] = {}
            for title, number in ((EMPTY, _FEW), (FULL, threads)):
                place = Path(name) / title
                place.mkdir()
                uri = await new_database(server, title)
                async with served(uri, "burst", place) as contender:
                    await template(contender)
                with Progress(console=console) as progress:
                    await fill(uri, number, progress, title)
                contender = await stack.enter_async_context(served(uri, "burst", place))
                found[title] = (contender, number)
            results = await measure(found, rounds, console)
            return table(results, await _size(uri))


async def _size(uri: str) -> str:
    async with await psycopg.AsyncConnection.connect(uri) as connection:
        found = await connection.execute(
            "SELECT (SELECT count(*) FROM threadmill.thread),"
            " (SELECT count(*) FROM threadmill.checkpoint),"
            " pg_size_pretty(pg_database_size(current_database()))"
        )
        row = await found.fetchone()
    assert row is not None
    return f"{row[0]:,} threads, {row[1]:,} checkpoints, {row[2]}"


def main() -> None:
    """Parses the options and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--threads", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    console = Console()
    began = time.perf_counter()
    shown = asyncio.run(run(args.threads, args.rounds, console))
    console.print(shown)
    console.print(f"in {time.perf_counter() - began:.0f} s", style="dim")


if __name__ == "__main__":
    main()
