"""What a fleet loses while its message broker is away, and gets back with it.

A broker carries hints only. Without it workers find work by what commits tell them over
PostgreSQL, and by looking every THREADMILL_POLL_SECONDS.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.table import Table

from bench.contenders import Served, served
from bench.databases import new_database
from chaos.services import SERVICES, Service
from threadmill.drivers.embedded import EmbeddedPostgres

#: With it, without it, and with it again.
PHASES: Final = ("with", "away", "back")
POSTGRES: Final = "PostgreSQL"
_CLIENTS: Final = 8
_WORKERS: Final = 2
# The first part of each phase is not counted: connections break, or come back.
_SETTLE_SECONDS: Final = 5.0
_SECONDS: Final = 10.0


@dataclass
class Phase:
    """Seconds that each counted turn took."""

    seconds: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Turns."""
        return len(self.seconds) / _SECONDS


Measured = Mapping[str, Mapping[str, Phase]]


async def _load(fleet: Served) -> Phase:
    phase, begun = Phase(), time.perf_counter()
    counted, end = begun + _SETTLE_SECONDS, begun + _SETTLE_SECONDS + _SECONDS

    async def client() -> None:
        while (started := time.perf_counter()) < end:
            await fleet.turn()
            if counted <= (now := time.perf_counter()) < end:
                phase.seconds.append(now - started)

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    return phase


async def _one(
    server: EmbeddedPostgres, folder: Path, name: str, broker: Service | None
) -> Mapping[str, Phase]:
    place = folder / f"fleet-{name}"
    place.mkdir()
    uri = await new_database(server, name.lower())
    # That a broker is away is no news here.
    env = {**(broker.env() if broker else {}), "LOG_LEVEL": "ERROR"}
    async with served(uri, "node", place, workers=_WORKERS, **env) as fleet:
        if broker is None:
            return {PHASES[0]: await _load(fleet)}
        found = {PHASES[0]: await _load(fleet)}
        await asyncio.to_thread(broker.kill)
        found[PHASES[1]] = await _load(fleet)
        await asyncio.to_thread(broker.start)
        found[PHASES[2]] = await _load(fleet)
        return found


async def measure(folder: Path) -> Measured:
    """PostgreSQL alone, then each broker, one after the other, on one server."""
    found: dict[str, Mapping[str, Phase]] = {}
    with EmbeddedPostgres(folder / "pg") as server:
        found[POSTGRES] = await _one(server, folder, POSTGRES, None)
        for name, kind in SERVICES.items():
            broker = kind(folder / name)
            await asyncio.to_thread(broker.start)
            try:
                found[name] = await _one(server, folder, name, broker)
            finally:
                with suppress(OSError):
                    await asyncio.to_thread(broker.stop)
    return found


def table(found: Measured) -> Table:
    """Throughput against that with the broker, and how long a turn takes."""
    shown = Table(
        title=f"node dispatch, {_CLIENTS} clients, {_WORKERS} workers; runs/s (p50)"
    )
    shown.add_column("")
    for phase in PHASES:
        shown.add_column(phase, justify="right")
    for name, phases in found.items():
        base = phases[PHASES[0]].per_second
        shown.add_row(name, *(_cell(phase, base) for phase in phases.values()))
    return shown


def _cell(phase: Phase, base: float) -> str:
    p50 = _milliseconds(phase.seconds)
    return f"{phase.per_second:.1f}, {phase.per_second / base:.2f}x ({p50})"


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.0f} ms" if seconds else "none"
