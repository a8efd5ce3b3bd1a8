"""What it costs when many clients follow runs that talk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
from rich.table import Table

from bench import redis
from bench.contenders import Served, served
from bench.databases import new_database
from threadmill.drivers.embedded import EmbeddedPostgres

CLIENTS: Final = 1000
#: How they are spread over runs.
RUNS: Final = (1, 50)
_WORDS: Final = 100
_PAUSE_SECONDS: Final = 0.05
_AT_ONCE: Final = 100
_PLACES: Final = ("PostgreSQL", "Redis")


@dataclass(frozen=True, slots=True)
class Followed:
    """What came of it.

    Args:
        told: events that all clients together got.
        missed: events that some client did not get.
        seconds: from the first request until the last client had the end.
        late_seconds: the longest time from the last word until a client had the end.
        transactions: of the database, in all.
    """

    told: int
    missed: int
    seconds: float
    late_seconds: float
    transactions: int


async def follow(fleet: Served, uri: str, clients: int, runs: int) -> Followed:
    """Lets `clients` follow `runs` to their end."""
    given = {"words": _WORDS, "pause": _PAUSE_SECONDS}
    before, started = await _transactions(uri), time.perf_counter()
    paths = []
    for _ in range(runs):
        thread = await fleet.client.threads.create()
        run = await fleet.client.runs.create(
            thread["thread_id"],
            "talk",
            input=given,
            stream_mode="custom",
            stream_resumable=True,
        )
        paths.append(f"/threads/{thread['thread_id']}/runs/{run['run_id']}/stream")
    opening = asyncio.Semaphore(_AT_ONCE)
    ends = await asyncio.gather(
        *(_read(fleet.url, paths[n % runs], opening) for n in range(clients))
    )
    told = [words for words, _ in ends]
    done = [at for _, at in ends]
    # The clock of the database and that of this process are one machine's.
    last = await _last_end(uri)
    return Followed(
        told=sum(told),
        missed=sum(_WORDS - words for words in told),
        seconds=max(done) - started,
        late_seconds=max(time.time() - (time.perf_counter() - at) for at in done)
        - last,
        transactions=await _transactions(uri) - before,
    )


async def _read(url: str, path: str, opening: asyncio.Semaphore) -> tuple[int, float]:
    """How many words a client got, and when it had the end."""
    to = urlsplit(url)
    async with opening:
        while True:
            reader, writer = await asyncio.open_connection(to.hostname, to.port)
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: bench\r\nLast-Event-ID: 0\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            if b" 200 " in await reader.readline():
                break
            # Too busy just now; a client asks again.
            writer.close()
            await asyncio.sleep(_PAUSE_SECONDS)
    words = 0
    async for line in reader:
        words += line.startswith(b"event: custom")
    writer.close()
    return words, time.perf_counter()


async def _transactions(uri: str) -> int:
    return int(
        await _one(
            uri,
            "SELECT xact_commit FROM pg_stat_database"
            " WHERE datname = current_database()",
        )
    )


async def _last_end(uri: str) -> float:
    return float(
        await _one(
            uri, "SELECT extract(epoch FROM max(finished_at)) FROM threadmill.run"
        )
    )


async def _one(uri: str, query: str) -> Any:
    async with await psycopg.AsyncConnection.connect(uri) as connection:
        row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


async def measure(folder: Path, clients: int) -> Mapping[tuple[str, int], Followed]:
    """By where events are read, and by the number of runs."""
    found = {}
    with EmbeddedPostgres(folder / "pg") as server:
        for place in _PLACES:
            uri = await new_database(server, place.lower())
            here = folder / place
            here.mkdir()
            async with (
                _relay(place) as settings,
                served(uri, "burst", here, slots=max(RUNS), **settings) as fleet,
            ):
                for runs in RUNS:
                    found[place, runs] = await follow(fleet, uri, clients, runs)
    return found


@asynccontextmanager
async def _relay(place: str) -> AsyncIterator[Mapping[str, str]]:
    if place == "PostgreSQL":
        yield {}
        return
    async with redis.server() as uri:
        yield {"STREAM_URI": uri}


def table(found: Mapping[tuple[str, int], Followed], clients: int) -> Table:
    """One row per place and spread."""
    shown = Table(
        title=f"{clients:,} clients follow runs of {_WORDS} words,"
        f" one each {_PAUSE_SECONDS * 1000:.0f} ms"
    )
    for heading in ("runs", "read in", "told", "missed", "s", "late by s", "xacts"):
        shown.add_column(heading, justify="right")
    for (place, runs), each in sorted(found.items(), key=lambda item: item[0][1]):
        shown.add_row(
            str(runs),
            place,
            f"{each.told:,}",
            f"{each.missed:,}",
            f"{each.seconds:.1f}",
            f"{each.late_seconds:.2f}",
            f"{each.transactions:,}",
        )
    return shown
