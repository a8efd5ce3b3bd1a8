"""The simulated time itself: what the simulator's verdicts rest on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulation.loop import ThreadLoop, World


def play(
    *mains: tuple[ThreadLoop, Callable[[], Coroutine[Any, Any, None]]],
    world: World,
    until: float = 100.0,
) -> None:
    for loop, main in mains:
        loop.call_soon(lambda loop=loop, main=main: loop.create_task(main()))
    world.run(over=lambda: False, until=until)


def sleeper(seen: list[Any], world: World, *, naps: int = 3) -> Any:
    async def main() -> None:
        for _ in range(naps):
            await asyncio.sleep(1.0)
            seen.append(round(world.now, 6))

    return main


def test_a_thread_sleeps_by_its_own_clock() -> None:
    world = World()
    seen: list[float] = []
    fast = world.thread("fast", began=1e6, rate=2.0)
    play((fast, sleeper(seen, world)), world=world)
    assert seen == [0.5, 1.0, 1.5]
    assert world.now == 1.5
    assert fast.time() == 1e6 + 3.0


def test_a_frozen_thread_goes_on_where_it_was() -> None:
    world = World()
    seen: list[float] = []
    one = world.thread("one")
    world.at(1.5, one.freeze, 5.0)
    world.at(2.0, one.freeze, 1.0)
    play((one, sleeper(seen, world)), world=world)
    assert seen == [1.0, 6.5, 7.5]


def test_a_killed_thread_does_nothing_more_and_says_nothing() -> None:
    world = World()
    seen: list[float] = []
    one, other = world.thread("one"), world.thread("other")
    world.at(1.5, one.kill)
    play(
        (one, sleeper(seen, world)),
        (other, sleeper(seen, world, naps=1)),
        world=world,
    )
    world.close()
    assert seen == [1.0, 1.0]
    assert world.failures == []


def test_timeouts_and_cancellations_work_as_anywhere() -> None:
    world = World()
    seen: list[float] = []

    async def main() -> None:
        try:
            async with asyncio.timeout(2.0):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append(world.now)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.sleep(50))
            await asyncio.sleep(1.0)
            task.cancel()
        seen.append(world.now)

    play((world.thread("one"), main), world=world)
    assert seen == [2.0, 3.0]


def test_what_a_callback_raises_is_told() -> None:
    world = World()
    one = world.thread("one")
    one.call_soon(lambda: 1 / 0)
    one.call_soon(world.failures.append, "goes on")
    world.run(over=lambda: False, until=1.0)
    assert world.failures[0].startswith("one: a callback raised ZeroDivisionError")
    assert world.failures[1] == "goes on"
