"""Event logs copied to Redis Streams: one round trip to tell, one to read.

Every key begins with `{tenant:thread}`, so one script may touch both of a thread:

    {tenant:thread}:events   the last events, each under its number
    {tenant:thread}:ends     how runs of the thread have ended

Who tells must not be held up, and who reads has PostgreSQL: every wait is short, and
after a failure Redis is left alone for a moment.
"""

from __future__ import annotations

import asyncio
import time
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from uuid import UUID

import structlog

from threadmill.domain.run import RunStatus
from threadmill.drivers.redis.scripts import Scripts
from threadmill.errors import Error, StoreUnavailable
from threadmill.streams.base import Event
from threadmill.streams.relay import Tail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from threadmill.drivers.redis.database import RedisDatabase
    from threadmill.streams.relay import Appended

SCRIPTS: Final = Scripts("threadmill.streams.redis")
_log = structlog.get_logger(__name__)

# Of one log. Who is further behind reads PostgreSQL.
_EVENTS_MAX: Final = 10_000
_WAIT_SECONDS: Final = 1.0
_LEFT_ALONE_SECONDS: Final = 2.0


class RedisRelay:
    """The `Relay` port.

    Args:
        database: where copies are; opened and closed by this relay.
        ttl_seconds: how long a copy stays after its last event.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        database: RedisDatabase,
        *,
        ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._ttl = max(1, round(ttl_seconds * 1000))
        self._clock = clock
        self._not_before = 0.0
        self._failing = self._is_open = False
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connects, now or when it answers.

        Raises:
            SetupError: it is too old, or refuses the login.
        """
        try:
            await self._database.open()
        except StoreUnavailable as error:
            self._fails(error)
        else:
            self._is_open = True

    async def close(self) -> None:
        """Disconnects; safe to call twice."""
        await self._database.close()

    async def tell(self, appended: Appended) -> None:
        """See `Relay.tell`."""
        if appended.run_id is None or not (appended.events or appended.status):
            return
        await self._ask(
            SCRIPTS.tell,
            _keys(appended.tenant, appended.thread_id),
            self._ttl,
            _EVENTS_MAX,
            str(appended.run_id),
            appended.status.value if appended.status else "",
            appended.last,
            appended.first,
            appended.attempt,
            appended.ms,
            *chain.from_iterable((e.event, e.data) for e in appended.events),
        )

    async def tail(
        self, tenant: str, thread_id: UUID, run_id: UUID, *, after: int, limit: int
    ) -> Tail:
        """See `Relay.tail`."""
        keys = _keys(tenant, thread_id)
        found = await self._ask(SCRIPTS.tail, keys, after, limit, str(run_id))
        if found is None:
            return Tail()
        reaches, ended, entries = found
        _, _, status = ended.decode().partition(" ")
        return Tail(
            [_event_of(id_, fields) for id_, fields in entries],
            reaches=bool(reaches),
            status=RunStatus(status) if status else None,
        )

    async def forget(self, tenant: str, thread_id: UUID) -> None:
        """See `Relay.forget`."""
        await self._ask(SCRIPTS.forget, _keys(tenant, thread_id))

    async def _ask(self, script: Any, keys: list[str], *args: Any) -> Any:
        """The answer; None if there is none soon."""
        if self._clock() < self._not_before:
            return None
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                if not self._is_open:
                    await self._open_once()
                answer = await self._database.call(script, keys, *args)
        except (Error, TimeoutError) as error:
            self._fails(error)
            return None
        if self._failing:
            _log.info("relay.recovered")
        self._failing = False
        return answer

    async def _open_once(self) -> None:
        # Opening lets go of what was open: only one may.
        async with self._opening:
            if not self._is_open:
                await self._database.open()
                self._is_open = True

    def _fails(self, error: Exception) -> None:
        self._not_before = self._clock() + _LEFT_ALONE_SECONDS
        if not self._failing:
            _log.warning("relay.broken", cause=str(error) or "no answer in time")
        self._failing = True


def _keys(tenant: str, thread_id: UUID) -> list[str]:
    tag = f"{{{quote(tenant, safe='', errors='surrogatepass')}:{thread_id}}}"
    return [f"{tag}:events", f"{tag}:ends"]


def _event_of(id_: bytes, fields: Sequence[bytes]) -> Event:
    of = dict(zip(fields[::2], fields[1::2], strict=True))
    return Event(
        seq=int(id_.partition(b"-")[0]),
        ms=int(of[b"ms"]),
        run_id=UUID(of[b"run"].decode()),
        attempt=int(of[b"attempt"]),
        event=of[b"event"].decode(),
        data=of[b"data"].decode(),
    )
