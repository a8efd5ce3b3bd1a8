"""The short part of the battery: every promise holds while a fleet is harmed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from chaos.services import SERVICES

ROOT = Path(__file__).parents[2]
# With the start of the fleet and the verdict, about a minute and a half.
_SECONDS = 75
# What no other test shows is played each time; the others follow as time allows.
_FIRST = (
    "freeze server",
    "node holds the GIL",
    "event loop blocked",
    "all connections cut",
    "late, in single bytes",
    "5 MB state",
    "killed at a named point",
    "postgres failover",
)
# Long enough for each of these once; `python -m chaos --broker` has the others.
_BROKER_SECONDS = 8
_BROKER_KINDS = ("broker restart", "broker purged", "killed around a hint")
_SHORT_KINDS = ("own pool exhausted", "out of memory", "connections exhausted")
_REDIS_KINDS = ("redis restart", "redis connections refused", "kill worker")


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_harmed_fleet_keeps_its_promises() -> None:
    """Another seed each time; a failure names it, and the folder of the logs."""
    first = (word for kind in _FIRST for word in ("--first", kind))
    await _run("--seconds", str(_SECONDS), *first)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("broker", SERVICES)
async def test_a_fleet_whose_broker_is_harmed_keeps_its_promises(broker: str) -> None:
    """Its broker goes away and comes back empty, and a worker dies."""
    await _run(
        *("--broker", broker, "--seconds", str(_BROKER_SECONDS), "--clients", "4"),
        *(word for kind in _BROKER_KINDS for word in ("--only", kind)),
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_fleet_whose_redis_is_harmed_keeps_its_promises() -> None:
    """It keeps what checkpoints hold; it dies, goes away, and a worker dies."""
    await _run(
        *("--checkpoints", "redis", "--seconds", "12", "--clients", "4"),
        *(word for kind in _REDIS_KINDS for word in ("--only", kind)),
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_fleet_that_runs_short_keeps_its_promises() -> None:
    """Of connections, its own and the database's, and of memory."""
    await _run(
        *("--seconds", "25"),
        *(word for kind in _SHORT_KINDS for word in ("--only", kind)),
    )


async def _run(*options: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chaos", *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    told = output.decode()
    assert process.returncode == 0, told
    assert "no violation" in told
