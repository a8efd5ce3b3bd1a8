"""What more workers bring, when nodes wait and do not compute.

Runs of one node that sleeps: so many that all slots of all workers are always taken.
And five thousand at once, on two workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from rich.table import Table

from bench.contenders import served
from bench.databases import new_database
from threadmill.drivers.embedded import EmbeddedPostgres

WORKERS: Final = (1, 2, 4)
# So few that two cores have time left for all of them.
_SLOTS: Final = 5
_SLEEP_SECONDS: Final = 1.0
_ROUNDS: Final = 12
MANY: Final = 5000
_MANY_WORKERS: Final = 2
_LOOK_SECONDS: Final = 0.5
_BATCH: Final = 100
_AIM: Final = 0.95


@dataclass(frozen=True, slots=True)
class Scaled:
    """Runs per second with so many workers."""

    workers: int
    per_second: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many runs that sleep at once.

    Args:
        at_once: the most that were running at one moment.
        begun_seconds: from the first request until that many ran.
        ended: how many ended with success.
        seconds: until the last one had ended.
    """

    at_once: int
    begun_seconds: float
    ended: int
    seconds: float


async def throughput(server: EmbeddedPostgres, folder: Path, workers: int) -> Scaled:
    """Keeps all slots of so many workers busy."""
    place = folder / f"scaling{workers}"
    place.mkdir()
    uri = await new_database(server, f"scaling{workers}")
    slots = workers * _SLOTS
    async with served(uri, "burst", place, workers=workers, slots=_SLOTS) as fleet:

        async def keep_busy(rounds: int) -> None:
            for _ in range(rounds):
                given = {"seconds": _SLEEP_SECONDS}
                await fleet.client.runs.wait(None, "sleep", input=given)

        await asyncio.gather(*(keep_busy(1) for _ in range(slots * 2)))
        started = time.perf_counter()
        # Twice as many clients as slots: somebody always waits for one.
        await asyncio.gather(*(keep_busy(_ROUNDS // 2) for _ in range(slots * 2)))
        took = time.perf_counter() - started
    return Scaled(workers, slots * 2 * (_ROUNDS // 2) / took)


async def crowd(server: EmbeddedPostgres, folder: Path, many: int) -> Crowd:
    """Lets so many runs sleep at once on two workers."""
    place = folder / "crowd"
    place.mkdir()
    uri = await new_database(server, "crowd")
    slots = -(-many // _MANY_WORKERS)
    seconds = max(30.0, many / 40)
    async with served(
        uri,
        "burst",
        place,
        workers=_MANY_WORKERS,
        slots=slots,
        # What has ended is counted at the end.
        THREADMILL_STATELESS_TTL_SECONDS="86400",
    ) as fleet:
        client, started = fleet.client, time.perf_counter()
        for first in range(0, many, _BATCH):
            number = min(_BATCH, many - first)
            given = {"assistant_id": "sleep", "input": {"seconds": seconds}}
            await client.runs.create_batch([given] * number)
        most, most_at, ended = 0, started, False
        while not ended:
            (queue, *_) = await client.http.get("/threadmill/queues")
            if queue["running"] > most:
                most, most_at = queue["running"], time.perf_counter()
            ended = not queue["running"] and not queue["runnable"]
            await asyncio.sleep(_LOOK_SECONDS)
        took = time.perf_counter() - started
        success = await _successes(uri)
    return Crowd(most, most_at - started, success, took)


async def _successes(uri: str) -> int:
    async with await psycopg.AsyncConnection.connect(uri) as connection:
        row = await (
            await connection.execute(
                "SELECT count(*) FROM threadmill.run"
                " WHERE status = 'success' AND graph_id = 'sleep'"
            )
        ).fetchone()
    assert row is not None
    return int(row[0])


def table(scaled: Sequence[Scaled], many: Crowd, asked: int) -> Table:
    """Throughput against that of one worker, and the crowd."""
    shown = Table(title=f"runs that sleep {_SLEEP_SECONDS:.0f} s, {_SLOTS} slots each")
    for heading in ("workers", "runs/s", "of linear", "aim"):
        shown.add_column(heading, justify="right")
    one = scaled[0].per_second
    for each in scaled:
        share = each.per_second / (one * each.workers)
        shown.add_row(
            str(each.workers), f"{each.per_second:.2f}", f"{share:.3f}", f">= {_AIM}"
        )
    shown.caption = (
        f"{asked:,} asked to sleep on {_MANY_WORKERS} workers: {many.at_once:,} at once"
        f" after {many.begun_seconds:.0f} s; {many.ended:,} ended with success after"
        f" {many.seconds:.0f} s"
    )
    return shown


async def measure(folder: Path, many: int) -> tuple[list[Scaled], Crowd]:
    """Both, each on a database of its own."""
    with EmbeddedPostgres(folder / "pg") as server:
        scaled = [await throughput(server, folder, workers) for workers in WORKERS]
        return scaled, await crowd(server, folder, many)
