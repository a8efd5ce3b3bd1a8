"""Threads that wait for work on an event loop of somebody else's."""

from __future__ import annotations

import asyncio
import threading

import pytest

from threadmill.checkpoints.home import BackgroundLoop, Home
from threadmill.errors import StoreUnavailable


@pytest.fixture
def home() -> Home:
    return Home(wait_seconds=0.05)


def test_work_may_take_longer_than_one_look(home: Home) -> None:
    loop = BackgroundLoop()
    home.move_in(loop.loop)
    looked = threading.Event()

    async def work() -> str:
        while not looked.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return "done"

    goes_on = home._goes_on

    def look() -> bool:
        looked.set()
        return goes_on()

    home._goes_on = look  # type: ignore[method-assign]
    assert home.call(work()) == "done"
    loop.stop()


def test_a_loop_that_does_not_run_is_told(home: Home) -> None:
    loop = BackgroundLoop()
    home.move_in(loop.loop)
    gate, blocked = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        gate.wait(10)

    loop.loop.call_soon_threadsafe(block)
    blocked.wait(10)

    async def work() -> None:
        pass

    with pytest.raises(StoreUnavailable, match="does not run"):
        home.call(work())
    gate.set()
    # What was begun too late is over before the loop is.
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop.loop).result(10)
    loop.stop()


def test_what_the_work_says_of_time_is_its_own(home: Home) -> None:
    loop = BackgroundLoop()
    home.move_in(loop.loop)

    async def work() -> None:
        raise TimeoutError("the database's")

    with pytest.raises(TimeoutError, match="the database's"):
        home.call(work())
    loop.stop()
