"""Hints over PostgreSQL's NOTIFY, coalesced per process.

NOTIFY takes a lock of the whole cluster at commit: inside every transaction it halves
their rate at 32 clients. So hints go out after the commits they are about, in a
transaction of their own, and while one is on its way the next ones gather.

One connection per process listens. When it breaks it is made anew, and everybody is
told that hints may have been missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from uuid import UUID

import psycopg
import structlog

from threadmill.drivers.postgres.reach import Outage
from threadmill.drivers.postgres.sql import Queries
from threadmill.ending import end
from threadmill.errors import Error
from threadmill.faults import Faults

if TYPE_CHECKING:
    from threadmill.brokers.base import Hint, HintReceiver
    from threadmill.drivers.postgres.database import Database

_log = structlog.get_logger(__name__)

NOTIFY = Queries(__package__, "postgres.sql")
_CHANNEL: Final = "threadmill"
_READY, _MOVED, _STOP = "ready", "moved", "stop"
# More than this waiting means that the database is away; hints are only hints.
_WAITING_MAX: Final = 10_000
_BATCH_MAX: Final = 500


class PostgresHints:
    """The `Hints` port.

    Args:
        database: publishes; needs no session of its own.
        origin: names this process; its own hints do not come back to it.
        faults: what tests make happen when hints are published.
    """

    def __init__(
        self, database: Database, *, origin: str, faults: Faults | None = None
    ) -> None:
        self._database = database
        self._origin = origin
        self._faults = faults or Faults()
        self._local: list[HintReceiver] = []
        self._waiting: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add_local(self, receiver: HintReceiver) -> None:
        """Tells a receiver of this process at once, without the way over the wire."""
        self._local.append(receiver)

    def tell_here(self, hint: Hint) -> None:
        """Tells the receivers of this process only."""
        for receiver in self._local:
            receiver.on_ready(hint.graph_id)

    def ready(self, hint: Hint, n: int = 1) -> None:
        """See `Hints.ready`; everybody looks, however many there are."""
        del n
        self.tell_here(hint)
        self._publish(f"{_READY} {hint.graph_id}")

    def moved(self, tenant: str, thread_id: UUID) -> None:
        """See `Hints.moved`."""
        for receiver in self._local:
            receiver.on_moved(tenant, thread_id)
        self._publish(f"{_MOVED} {thread_id} {tenant}")

    def stop(self, activation_id: UUID, token: int) -> None:
        """See `Hints.stop`."""
        for receiver in self._local:
            receiver.on_stop(activation_id, token)
        self._publish(f"{_STOP} {activation_id} {token}")

    def _publish(self, payload: str) -> None:
        if len(self._waiting) < _WAITING_MAX:
            self._waiting[f"{self._origin} {payload}"] = None
            self._wake.set()

    async def start(self) -> None:
        """Begins to publish."""
        self._task = asyncio.create_task(self._publish_all(), name="hints")

    async def close(self) -> None:
        """Publishes what waits, then ends."""
        if self._task is not None:
            await end(self._task)
        with suppress(Error):
            await self._send()

    async def _publish_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._send()
            except Error as error:
                # Everybody also looks without hints.
                _log.debug("hints.lost", cause=str(error))
            except Exception:  # noqa: BLE001 - a loop that ends would tell nobody more
                _log.exception("hints.crashed")

    async def _send(self) -> None:
        while self._waiting:
            batch = list(self._waiting)[:_BATCH_MAX]
            for payload in batch:
                del self._waiting[payload]
            await self._faults.at("notify.before")
            async with self._database.system_tx() as tx:
                tx.add(NOTIFY.notify, channel=_CHANNEL, payloads=batch)
            await self._faults.at("notify.after")


class PostgresListener:
    """Receives hints over a session of its own.

    Args:
        conninfo: of a direct connection: a transaction pooler loses LISTEN.
        receivers: told of every hint from other processes.
        origin: names this process.
        retry_seconds: before the first attempt to connect again; see `Outage`.
    """

    def __init__(
        self,
        conninfo: str,
        receivers: Sequence[HintReceiver],
        *,
        origin: str,
        retry_seconds: float = 0.5,
    ) -> None:
        self._conninfo = conninfo
        self._receivers = list(receivers)
        self._origin = origin
        self._retry_seconds = retry_seconds
        self._outage = Outage(_log, "listener", first_pause_seconds=retry_seconds)
        self._task: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()

    async def start(self) -> None:
        """Begins to listen; returns before the first connection stands."""
        self._task = asyncio.create_task(self._listen_always(), name="listener")

    async def close(self) -> None:
        """Stops listening; safe to call twice."""
        if self._task is not None:
            await end(self._task)
            self._task = None

    async def _listen_always(self) -> None:
        while True:
            pause = self._retry_seconds
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                pause = self._outage.broke(error)
            except Exception:  # noqa: BLE001 - a loop that ends would hear nothing more
                _log.exception("listener.crashed")
            self.listening.clear()
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        async with await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True
        ) as connection:
            await connection.execute(f"LISTEN {_CHANNEL}".encode())
            self.listening.set()
            self._outage.over()
            for receiver in self._receivers:
                receiver.on_ready(None)
                receiver.on_moved(None, None)
            async for notify in connection.notifies():
                try:
                    self._deliver(notify.payload)
                except ValueError:
                    # Another release's, or somebody else's on the same channel.
                    _log.debug("listener.unknown_hint", hint=notify.payload)

    def _deliver(self, payload: str) -> None:
        origin, _, hint = payload.partition(" ")
        if origin == self._origin:
            return
        kind, _, rest = hint.partition(" ")
        first, _, second = rest.partition(" ")
        for receiver in self._receivers:
            if kind == _READY:
                receiver.on_ready(rest)
            elif kind == _MOVED:
                receiver.on_moved(second, UUID(first))
            elif kind == _STOP:
                receiver.on_stop(UUID(first), int(second))
