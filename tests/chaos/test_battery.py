"""The short part of the battery: every promise holds while a fleet is harmed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# With the start of the fleet and the verdict, about a minute and a half.
_SECONDS = 55


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_harmed_fleet_keeps_its_promises() -> None:
    """Another seed each time; a failure names it, and the folder of the logs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chaos", "--seconds", str(_SECONDS)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    told = output.decode()
    assert process.returncode == 0, told
    assert "no violation" in told
