"""Background tasks end, and their end swallows nobody's cancellation."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from threadmill.ending import end


async def test_a_task_that_has_been_ended_is_over() -> None:
    task = asyncio.create_task(asyncio.Event().wait())
    await end(task)
    assert task.cancelled()
    await end(task)


async def test_the_callers_deadline_holds_also_while_it_waits() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def cling() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await may_end.wait()

    task = asyncio.create_task(cling())
    await begun.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await end(task)
    assert not task.done()
    may_end.set()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_what_a_task_failed_by_is_logged() -> None:
    async def fails() -> None:
        raise ValueError("of its own")

    task = asyncio.create_task(fails(), name="failing")
    await asyncio.wait({task})
    with capture_logs() as logs:
        await end(task)
    assert [(line["event"], line["task"]) for line in logs] == [
        ("task.failed", "failing")
    ]
