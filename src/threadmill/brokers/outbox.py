"""Hints through a message broker, and those for everybody through PostgreSQL.

That an activation is ready concerns one worker, so it goes through the broker. That a
thread has moved, or that an activation must stop, concerns whoever waits or works on
it, and nobody knows who that is: it goes to all, by NOTIFY. So does work of which the
publisher knows too little to give it a route.

Publishing waits for nobody. What the broker does not take is kept and sent again, up to
a bound; what is beyond it is dropped, and found by polling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog

from threadmill.brokers.retrying import Retrying
from threadmill.ending import end
from threadmill.errors import BrokerUnavailable
from threadmill.faults import Faults

if TYPE_CHECKING:
    from threadmill.brokers.base import Hint, HintReceiver
    from threadmill.brokers.broker import Broker
    from threadmill.brokers.postgres import PostgresHints

_log = structlog.get_logger(__name__)

_WAITING_MAX: Final = 10_000
_BATCH_MAX: Final = 100
# Of one kind of hint: a superstep may be wider than all workers together.
_COPIES_MAX: Final = 100
_GOODBYE_SECONDS: Final = 2.0


class BrokerHints:
    """The `Hints` port.

    Args:
        broker: publishes; not open yet, nobody else's.
        everybody: the hints of PostgreSQL; whoever made it starts and closes it.
        waiting_max: how many hints may wait for the broker.
        faults: what tests make happen when hints are published.
    """

    def __init__(
        self,
        broker: Broker,
        everybody: PostgresHints,
        *,
        waiting_max: int = _WAITING_MAX,
        faults: Faults | None = None,
    ) -> None:
        self._broker = broker
        self._everybody = everybody
        self._waiting_max = waiting_max
        self._faults = faults or Faults()
        self._waiting: dict[Hint, int] = {}
        self._wake = asyncio.Event()
        self._retrying = Retrying(_log, "broker.publishing")
        self._open = False
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """How many hints wait for the broker."""
        return sum(self._waiting.values())

    def add_local(self, receiver: HintReceiver) -> None:
        """See `PostgresHints.add_local`."""
        self._everybody.add_local(receiver)

    def ready(self, hint: Hint, n: int = 1) -> None:
        """See `Hints.ready`."""
        if not hint.graph_id:
            self._everybody.ready(hint)
            return
        self._everybody.tell_here(hint)
        # The same hint once more says no more, until it has been published.
        wanted = max(self._waiting.get(hint, 0), min(n, _COPIES_MAX))
        more = wanted - self._waiting.get(hint, 0)
        if self.waiting + more > self._waiting_max or not _fits(hint):
            self.dropped += more
            return
        self._waiting[hint] = wanted
        self._wake.set()

    def moved(self, tenant: str, thread_id: UUID) -> None:
        """See `Hints.moved`."""
        self._everybody.moved(tenant, thread_id)

    def stop(self, activation_id: UUID, token: int) -> None:
        """See `Hints.stop`."""
        self._everybody.stop(activation_id, token)

    def pass_on(self, hint: Hint) -> None:
        """A hint reached a worker that it is not for: everybody looks."""
        self._everybody.ready(hint)

    async def start(self) -> None:
        """Begins to publish; returns before the broker answers."""
        self._task = asyncio.create_task(self._publish_all(), name="broker-hints")

    async def close(self) -> None:
        """Publishes what waits if the broker takes it quickly, then ends."""
        if self._task is not None:
            await end(self._task)
            self._task = None
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._send()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._broker.close()

    async def _publish_all(self) -> None:
        while True:
            try:
                await self._connect()
                await self._wake.wait()
                self._wake.clear()
                await self._send()
            except Exception as error:  # noqa: BLE001 - the root of the task
                self._open = False
                self._wake.set()
                await asyncio.sleep(self._retrying.broke(error))

    async def _connect(self) -> None:
        if not self._open:
            await self._broker.open()
            self._open = True
            self._retrying.over()

    async def _send(self) -> None:
        while self._waiting:
            if not self._open:
                await self._connect()
            batch = self._batch()
            try:
                await self._faults.at("publish.before")
                await self._broker.publish(batch)
                await self._faults.at("publish.after")
            except BaseException:
                # Some may be there already: a hint that comes twice does no harm.
                self._keep(batch)
                raise

    def _batch(self) -> Sequence[Hint]:
        batch: list[Hint] = []
        for hint, n in list(self._waiting.items()):
            taken = min(n, _BATCH_MAX - len(batch))
            batch += [hint] * taken
            if taken == n:
                del self._waiting[hint]
            else:
                self._waiting[hint] = n - taken
            if len(batch) == _BATCH_MAX:
                break
        return batch

    def _keep(self, batch: Sequence[Hint]) -> None:
        for hint in batch:
            if self.waiting >= self._waiting_max:
                self.dropped += 1
            else:
                self._waiting[hint] = self._waiting.get(hint, 0) + 1


def _fits(hint: Hint) -> bool:
    try:
        hint.encode()
    except ValueError:
        return False
    return True
