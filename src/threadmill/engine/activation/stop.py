"""Why an entry into a graph stops early, and how it is told.

The reason travels with the request, so nobody keeps lists of run ids. User code may
swallow a cancellation; then the saver refuses whatever it still writes.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum


class StopReason(StrEnum):
    """What the holder of an attempt is told."""

    LEASE_LOST = "lease_lost"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    DRAIN = "drain"


class Stop:
    """A one-way switch of one attempt: the first reason stays.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason: StopReason | None = None

    def request(self, reason: StopReason) -> None:
        """Asks the attempt to stop now; later reasons do not count."""
        if self.reason is None:
            self.reason = reason
            self._event.set()

    async def requested(self) -> StopReason:
        """Waits for the request and returns its reason."""
        await self._event.wait()
        assert self.reason is not None  # noqa: S101  # set before the event
        return self.reason
