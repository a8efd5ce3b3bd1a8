"""Keeps a node that calls `exit()` from ending the whole worker.

asyncio lets SystemExit and KeyboardInterrupt pass through every task to the loop, which
then stops: with it would go all other runs of the process, and the next process, and
so on until the run is given up. LangGraph runs nodes in tasks of its own making, so
the loop's way of making tasks is where it can be helped: what a node's task raises
that way becomes an ordinary error of its run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, Final

from threadmill.errors import GraphFailed

_NODE: Final[ContextVar[str | None]] = ContextVar("node", default=None)
EXITS: Final = (SystemExit, KeyboardInterrupt)


def guard_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Watches the tasks that nodes start on this loop, unless others make its tasks."""
    if loop.get_task_factory() is None:
        loop.set_task_factory(_make_task)


def enter_node(name: str) -> None:
    """Marks the running task: it and the tasks that it starts belong to a node."""
    _NODE.set(name)


def failure_of(name: str, error: BaseException) -> GraphFailed:
    """What an exit is turned into."""
    return GraphFailed(f"node '{name}' raised {type(error).__name__}")


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
) -> asyncio.Task[Any]:
    name = _NODE.get()
    if name is None:
        return asyncio.Task(coro, loop=loop, **options)
    task = asyncio.Task(_watched(coro, name), loop=loop, **options)
    # A task that is cancelled before it begins never gets to await it.
    task.add_done_callback(lambda _: coro.close())
    return task


async def _watched(coro: Coroutine[Any, Any, Any], name: str) -> Any:
    try:
        return await coro
    except EXITS as error:
        raise failure_of(name, error) from error
