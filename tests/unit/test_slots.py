"""A slot is taken while its threads run, and gets its share of threads only."""

from __future__ import annotations

import asyncio
import threading

import pytest

from threadmill.worker.slots import Slot, Slots, SlotThreads


@pytest.fixture
def freed() -> asyncio.Event:
    return asyncio.Event()


def _use(slots: int) -> tuple[asyncio.AbstractEventLoop, SlotThreads]:
    loop = asyncio.get_running_loop()
    threads = SlotThreads(slots, loop)
    loop.set_default_executor(threads)
    return loop, threads


async def _in_slot(slot: Slot, work: list[asyncio.Future[None]], fn: object) -> None:
    slot.enter()
    loop = asyncio.get_running_loop()
    work.extend(loop.run_in_executor(None, fn) for _ in range(200))  # type: ignore[arg-type]


async def test_a_wide_slot_does_not_take_the_others_threads() -> None:
    loop, _ = _use(4)
    slots, gate = Slots(4, on_free=lambda: None), threading.Event()
    stuck: list[asyncio.Future[None]] = []
    await asyncio.create_task(_in_slot(slots.take(), stuck, gate.wait))

    async def other() -> str:
        slots.take().enter()
        return await loop.run_in_executor(None, lambda: "done")

    try:
        assert await asyncio.wait_for(asyncio.create_task(other()), 20) == "done"
    finally:
        gate.set()
    await asyncio.gather(*stuck)


async def test_a_slot_stays_taken_until_its_threads_return(
    freed: asyncio.Event,
) -> None:
    _use(1)
    slots, gate = Slots(1, on_free=freed.set), threading.Event()
    slot, stuck = slots.take(), list[asyncio.Future[None]]()
    await asyncio.create_task(_in_slot(slot, stuck, gate.wait))
    slot.let_go()
    assert slots.free == 0
    gate.set()
    await asyncio.wait_for(freed.wait(), 20)
    assert slots.free == 1
    assert all(future.done() for future in stuck)


async def test_an_error_reaches_whoever_waits() -> None:
    loop, _ = _use(1)
    Slots(1, on_free=lambda: None).take().enter()
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(None, lambda: 1 / 0)
