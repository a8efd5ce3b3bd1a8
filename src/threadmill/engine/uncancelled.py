"""Finishes what must not be left half done when its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work` to its end, also when the caller is cancelled meanwhile.

    Args:
        work: bounded by itself: nothing else ends the wait for it.

    Raises:
        CancelledError: the caller was cancelled. `work` has ended before that, and what
            it raised is dropped.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            # Being cancelled once more says nothing new.
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
