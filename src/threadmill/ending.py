"""How background tasks end, and what may block at the end of a process.

`await task` in a `suppress(CancelledError)` takes both for the same: whoever closes
something under a deadline would lose the deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

_log = structlog.get_logger(__name__)


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels a task and waits until it has ended; what it failed by is logged.

    Cancelled itself, it no longer waits: the task ends by itself a little later.
    """
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("task.failed", task=task.get_name(), exc_info=error)


async def aside(work: Callable[[], None]) -> None:
    """Does `work` in a thread of its own: nodes that never end may hold all others."""
    thread = ThreadPoolExecutor(max_workers=1)
    try:
        await asyncio.get_running_loop().run_in_executor(thread, work)
    finally:
        thread.shutdown(wait=False)
