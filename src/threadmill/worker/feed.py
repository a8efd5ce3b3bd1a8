"""Receives hints from a message broker for one worker.

It asks for no more hints than the worker has free slots: the rest is left to others. A
hint is acknowledged when the worker has asked the database for work, whether or not
there was any: if there was none, somebody else took it. When the process dies before
that, the hint comes back.

Without its broker the worker finds its work by polling, as it always does. When the
broker is back, the worker looks once, because hints may have been missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from threadmill.brokers.retrying import Retrying
from threadmill.ending import end
from threadmill.faults import Faults
from threadmill.worker.worker import Looked

if TYPE_CHECKING:
    from threadmill.brokers.base import Hint
    from threadmill.brokers.broker import Broker, Delivery

_log = structlog.get_logger(__name__)

_WAIT_SECONDS: Final = 10.0
# Hints of one receipt; a worker with many slots takes several.
_BATCH_MAX: Final = 100
_FAILED_PAUSE_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 5.0


class Looks(Protocol):
    """What a feed needs of a worker."""

    async def room(self) -> int:
        """Waits for free slots; returns how many there are."""
        ...

    async def look(self) -> Looked:
        """Asks for work once, after this call; returns what became of that."""
        ...

    def is_for_me(self, hint: Hint) -> bool:
        """Whether this worker could take what the hint is about."""
        ...

    def on_ready(self, graph_id: str | None) -> None:
        """See `HintReceiver.on_ready`."""
        ...


class PassesOn(Protocol):
    """Where a hint goes that reached the wrong worker."""

    def pass_on(self, hint: Hint) -> None:
        """Everybody looks."""
        ...


class HintFeed:
    """Hints of one broker for one worker.

    Args:
        broker: receives; not open yet, nobody else's.
        worker: looks for work.
        others: told of hints that are not for this worker.
        wait_seconds: of one request for hints.
        faults: what tests make happen as hints are taken.
    """

    def __init__(
        self,
        broker: Broker,
        worker: Looks,
        others: PassesOn,
        *,
        wait_seconds: float = _WAIT_SECONDS,
        faults: Faults | None = None,
    ) -> None:
        self._broker = broker
        self._worker = worker
        self._others = others
        self._wait_seconds = wait_seconds
        self._faults = faults or Faults()
        self._retrying = Retrying(_log, "broker.receiving")
        self._task: asyncio.Task[None] | None = None
        self.received = 0

    @property
    def receiving(self) -> bool:
        """Whether the broker answered when it was last asked."""
        return not self._retrying.broken

    async def start(self) -> None:
        """Begins to receive; returns before the broker answers."""
        self._task = asyncio.create_task(self._receive_always(), name="hint-feed")

    async def close(self) -> None:
        """Stops; what is not acknowledged comes back. Safe to call twice."""
        if self._task is not None:
            await end(self._task)
            self._task = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._broker.close()

    async def _receive_always(self) -> None:
        while True:
            try:
                await self._broker.open()
                self._retrying.over()
                self._worker.on_ready(None)
                while True:
                    await self._receive()
            except Exception as error:  # noqa: BLE001 - the root of the task
                await asyncio.sleep(self._retrying.broke(error))

    async def _receive(self) -> None:
        room = await self._worker.room()
        await self._faults.at("receive.before")
        got = await self._broker.receive(min(room, _BATCH_MAX), self._wait_seconds)
        if not got:
            return
        await self._faults.at("receive.after")
        self.received += len(got)
        mine = [d for d in got if d.hint is not None and self._worker.is_for_me(d.hint)]
        self._pass_on([d.hint for d in got if d.hint is not None and d not in mine])
        looked = await self._worker.look() if mine else Looked.ASKED
        if looked is Looked.ASKED:
            await self._ack(got)
            return
        await self._ack([d for d in got if d not in mine])
        failed = looked is Looked.FAILED
        await self._broker.nack(mine, _FAILED_PAUSE_SECONDS if failed else 0.0)
        if failed:
            # Brokers that cannot delay would give it back at once.
            await asyncio.sleep(_FAILED_PAUSE_SECONDS)

    async def _ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._faults.at("ack.before")
        await self._broker.ack(deliveries)
        await self._faults.at("ack.after")

    def _pass_on(self, hints: Sequence[Hint]) -> None:
        """Hints that are not for this worker.

        Given back to the broker they could go round for ever between workers they are
        not for: everybody is told instead, once.
        """
        for hint in hints:
            self._others.pass_on(hint)
