"""Hints over Redis or Valkey streams: a consumer group, trimmed streams.

Each route is a stream with one group, of which every worker is a consumer. What a dead
worker has not acknowledged is claimed by others once it has been idle for
`return_seconds`. A stream that is deleted, or flushed with everything else, is made
anew. Redis does not delay: what is given back is added again, and comes at once.

Reads that block have a connection of their own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from math import inf
from typing import Any, Final
from uuid import uuid4

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from threadmill.brokers.base import Hint
from threadmill.brokers.broker import (
    PLAIN,
    BrokerOptions,
    Delivery,
    asked,
    queue_name,
    route_of,
)
from threadmill.errors import BrokerUnavailable

# RuntimeError: uvloop's, of a connection that has been closed meanwhile.
_VENDOR: Final = (RedisError, ValueError, RuntimeError)
_GROUP: Final = "workers"
_HINT, _TIMES = b"hint", b"times"
# Consumers without a name in use are forgotten after this long.
_FORGET_SECONDS: Final = 3600.0


class RedisBroker:
    """The `Broker` port.

    Args:
        options: `redis://` or `rediss://`; the path is the number of the database.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self._options = options
        self._consumer = f"{options.name}-{uuid4().hex[:12]}"
        self._asking: Redis | None = None
        self._blocking: Redis | None = None
        self._looked_at = -inf

    async def open(self) -> None:
        """See `Broker.open`."""
        await self.close()
        answer = self._options.answer_seconds
        self._asking = self._connection(answer)
        self._blocking = self._connection(None)
        self._looked_at = -inf
        async with self._asked():
            for route in self._options.routes:
                await self._make(route)
                await self._forget(route)

    async def close(self) -> None:
        """See `Broker.close`."""
        connections = (self._asking, self._blocking)
        self._asking = self._blocking = None
        for connection in connections:
            if connection is not None:
                with suppress(BrokerUnavailable):
                    async with self._asked():
                        await connection.aclose()

    async def publish(self, hints: Sequence[Hint]) -> None:
        """See `Broker.publish`."""
        async with self._asked(), self._here().pipeline(transaction=False) as pipe:
            for hint in hints:
                self._add(pipe, route_of(hint), hint.encode(), times=1)
            await pipe.execute()

    async def receive(self, n: int, wait_seconds: float) -> Sequence[Delivery]:
        """See `Broker.receive`."""
        seconds = wait_seconds + self._options.answer_seconds
        async with self._asked(seconds=seconds):
            taken = await self._left_behind(n)
            if not taken:
                taken = await self._read(n, wait_seconds)
        # Redis counts for each stream, and we for all.
        taken, beyond = taken[:n], taken[n:]
        if beyond:
            await self.nack(beyond)
        return taken

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.ack`."""
        async with self._asked(), self._here().pipeline(transaction=False) as pipe:
            for delivery in deliveries:
                self._remove(pipe, delivery)
            await pipe.execute()

    async def nack(
        self, deliveries: Sequence[Delivery], delay_seconds: float = 0.0
    ) -> None:
        """See `Broker.nack`; comes back at once."""
        del delay_seconds
        async with self._asked(), self._here().pipeline(transaction=True) as pipe:
            for delivery in deliveries:
                _, body, times = delivery.receipt
                if times < self._options.deliveries_max:
                    self._add(pipe, delivery.route, body, times=times + 1)
                self._remove(pipe, delivery)
            await pipe.execute()

    async def depth(self, route: str = PLAIN) -> int:
        """See `Broker.depth`: with what is being looked at."""
        async with self._asked():
            return int(await self._here().xlen(self._name(route)))

    async def health(self) -> str:
        """See `Broker.health`."""
        async with self._asked():
            told = await self._here().info("server")
            if version := told.get("valkey_version"):
                return f"Valkey {version}"
            return f"Redis {told.get('redis_version', '')}".rstrip()

    # --- streams ---------------------------------------------------------------------

    def _asked(self, seconds: float | None = None) -> AbstractAsyncContextManager[None]:
        return asked(self._options, _VENDOR, seconds=seconds)

    def _connection(self, answer_seconds: float | None) -> Redis:
        """One connection; `asked` bounds what waits without a bound of its own."""
        return Redis.from_url(
            self._options.uri,
            client_name=self._options.name.replace(" ", "-"),
            max_connections=4,
            socket_connect_timeout=self._options.answer_seconds,
            socket_timeout=answer_seconds,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )

    def _here(self, *, blocking: bool = False) -> Redis:
        connection = self._blocking if blocking else self._asking
        if connection is None:
            raise ConnectionError("the connection is not open")
        return connection

    def _name(self, route: str) -> str:
        # The braces keep all streams on one node of a cluster.
        return queue_name(f"{{{self._options.prefix}}}", route, ":")

    async def _make(self, route: str) -> None:
        """Makes the route's stream and group, if they are missing."""
        try:
            await self._here().xgroup_create(
                self._name(route), _GROUP, id="0", mkstream=True
            )
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _forget(self, route: str) -> None:
        """Drops consumers that have long been gone and hold nothing."""
        for told in await self._here().xinfo_consumers(self._name(route), _GROUP):
            if not told["pending"] and told["idle"] > _FORGET_SECONDS * 1000:
                await self._here().xgroup_delconsumer(
                    self._name(route), _GROUP, told["name"]
                )

    def _add(self, pipe: Any, route: str, body: bytes, *, times: int) -> None:
        pipe.xadd(
            self._name(route),
            {_HINT: body, _TIMES: str(times)},
            maxlen=self._options.hints_max,
            approximate=True,
        )

    def _remove(self, pipe: Any, delivery: Delivery) -> None:
        entry, _, _ = delivery.receipt
        name = self._name(delivery.route)
        pipe.xack(name, _GROUP, entry)
        pipe.xdel(name, entry)

    async def _read(self, n: int, wait_seconds: float) -> list[Delivery]:
        """New hints of all routes; waits for the first."""
        routes = {self._name(route): route for route in self._options.routes}
        try:
            found = await self._here(blocking=True).xreadgroup(
                _GROUP,
                self._consumer,
                dict.fromkeys(routes, ">"),
                count=max(1, n // len(routes)),
                block=max(1, int(wait_seconds * 1000)),
            )
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            # Flushed, or deleted: whoever published since has made it anew.
            for route in self._options.routes:
                await self._make(route)
            return []
        pairs = found.items() if isinstance(found, Mapping) else found or ()
        return [
            delivery
            for name, entries in pairs
            for delivery in self._deliveries(routes[name.decode()], entries)
        ]

    async def _left_behind(self, n: int) -> list[Delivery]:
        """What others have held too long, looked for now and then."""
        now = time.monotonic()
        if now - self._looked_at < self._options.return_seconds / 2:
            return []
        self._looked_at = now
        taken: list[Delivery] = []
        for route in self._options.routes:
            try:
                _, entries, *_ = await self._here().xautoclaim(
                    self._name(route),
                    _GROUP,
                    self._consumer,
                    min_idle_time=int(self._options.return_seconds * 1000),
                    count=n,
                )
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                await self._make(route)
                continue
            taken += self._deliveries(route, entries, more=1)
        spent = [d for d in taken if d.receipt[2] > self._options.deliveries_max]
        await self.ack(spent)
        return [delivery for delivery in taken if delivery not in spent]

    @staticmethod
    def _deliveries(
        route: str, entries: Sequence[Any], *, more: int = 0
    ) -> list[Delivery]:
        found = []
        for entry, fields in entries:
            # One that was trimmed while it was being held has no fields any more.
            body = (fields or {}).get(_HINT, b"")
            times = (fields or {}).get(_TIMES, b"")
            receipt = (entry, body, (int(times) if times.isdigit() else 1) + more)
            found.append(Delivery(Hint.decode(body), route, receipt))
        return found
