"""What a broker has delivered, until it is asked for.

Some brokers push, or answer a request later than it was asked. What they deliver waits
here, but not for long: a hint that this process does not take belongs to somebody with
a free slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from threadmill.errors import BrokerUnavailable

if TYPE_CHECKING:
    from threadmill.brokers.broker import Delivery

_LINGER_SECONDS: Final = 0.25


class Inbox:
    """Deliveries that nobody has taken yet. Belongs to one event loop.

    Args:
        give_back: called with what nobody took; its failure is nobody's, the broker
            sees the connection end.
        linger_seconds: how long a delivery may wait while nobody takes any.
    """

    def __init__(
        self,
        give_back: Callable[[Sequence[Delivery]], Awaitable[None]],
        *,
        linger_seconds: float = _LINGER_SECONDS,
    ) -> None:
        self._give_back = give_back
        self._linger_seconds = linger_seconds
        self._waiting: list[Delivery] = []
        self._failure: BrokerUnavailable | None = None
        self._changed = asyncio.Event()
        self._taking = False
        self._timer: asyncio.TimerHandle | None = None
        self._giving: set[asyncio.Task[None]] = set()

    def put(self, delivery: Delivery) -> None:
        """Something was delivered."""
        self._waiting.append(delivery)
        self._changed.set()
        self._arm()

    def fail(self, failure: BrokerUnavailable) -> None:
        """Nothing more will come: whoever takes is told."""
        self._failure = failure
        self._changed.set()

    async def take(self, n: int, wait_seconds: float) -> Sequence[Delivery]:
        """Waits for deliveries; returns at most `n`.

        Raises:
            BrokerUnavailable: see `fail`.
        """
        self._taking = True
        self._disarm()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    while not self._waiting and self._failure is None:
                        self._changed.clear()
                        await self._changed.wait()
        finally:
            self._taking = False
            self._arm()
        if self._failure is not None and not self._waiting:
            raise self._failure
        taken, self._waiting = self._waiting[:n], self._waiting[n:]
        return taken

    def clear(self) -> Sequence[Delivery]:
        """Empties it, also of its failure; returns what nobody took."""
        self._disarm()
        waiting, self._waiting = self._waiting, []
        self._failure = None
        return waiting

    def _arm(self) -> None:
        if not self._taking and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._linger_seconds, self._idle)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _idle(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        giving = asyncio.create_task(self._give(waiting), name="hints-back")
        self._giving.add(giving)
        giving.add_done_callback(self._giving.discard)

    async def _give(self, waiting: Sequence[Delivery]) -> None:
        with suppress(BrokerUnavailable):
            await self._give_back(waiting)
