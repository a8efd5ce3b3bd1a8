"""Named points: what may be asked for, and that the code passes each of them."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest

import threadmill
from threadmill.errors import BadSetting
from threadmill.faults import POINTS, STEPS, Faults

SOURCE = Path(threadmill.__file__).parent


@pytest.mark.parametrize(
    ("specification", "seconds"),
    [
        ("node.before=pause:0.5", 0.5),
        ("node.before=pause:2s", 2.0),
        ("node.before=pause:50ms", 0.05),
        (" node.before=pause:1s@100% ", 1.0),
    ],
)
async def test_a_pause_lasts_as_long_as_it_says(
    specification: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    faults = Faults(specification)
    await faults.at("node.after")
    await faults.at("node.before")
    assert slept == [seconds]


async def test_the_nth_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    faults = Faults("put.after=pause:1@3,load.before=pause:2@1")
    for _ in range(5):
        await faults.at("put.after")
    assert slept == [1]


def test_code_that_blocks_passes_the_same_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    faults = Faults("commit.after=pause:2s@2")
    asyncio.run(faults.at("commit.after"))
    for _ in range(3):
        faults.at_blocking("commit.after")
        faults.at_blocking("commit.before")
    assert slept == [2.0]


@pytest.mark.parametrize(
    "specification",
    [
        "nowhere.before=kill",
        "put=kill",
        "put.before",
        "put.before=explode",
        "put.before=pause:x",
        "put.before=kill@x%",
    ],
)
def test_what_is_not_known_is_refused(specification: str) -> None:
    with pytest.raises(BadSetting, match="THREADMILL_FAULTS"):
        Faults(specification)


def test_the_code_passes_every_point_and_no_other() -> None:
    code = "".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py"))
    passed = set(
        re.findall(r'faults\.at(?:_blocking)?\(\s*f?"([a-z_]+\.[a-z{]+)', code)
    )
    both_sides = {
        point.partition(".")[0] for point in passed if point.endswith("{side")
    }
    named = {point for point in passed if not point.endswith("{side")}
    assert named <= POINTS
    for step in set(STEPS) - both_sides:
        assert {f"{step}.before", f"{step}.after"} <= named, step
