"""Hints over RabbitMQ: quorum queues, publisher confirms, a dead-letter exchange.

A consumer may have as many unacknowledged hints as its worker had free slots when it
began to consume. It consumes while somebody receives, and stops soon after: a worker
whose slots are taken holds no hint back. When its connection ends, or falls silent for
two heartbeats, what it held goes to others.

RabbitMQ does not delay: what is given back comes again at once. Nothing here needs
RabbitMQ 4; 3.10 is what the tests run on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aio_pika.exceptions import AMQPError
from yarl import URL

from threadmill.brokers.base import Hint
from threadmill.brokers.broker import (
    PLAIN,
    BrokerOptions,
    Delivery,
    asked,
    queue_name,
    route_of,
)
from threadmill.brokers.inbox import Inbox
from threadmill.errors import BrokerUnavailable

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage

_HEARTBEAT_SECONDS: Final = 10
# What was given up is kept to be looked at, for a while.
_DEAD_MAX: Final = 10_000
_VENDOR: Final = (AMQPError, RuntimeError, ValueError)


class RabbitBroker:
    """The `Broker` port.

    Args:
        options: `amqp://` or `amqps://`; the path is the virtual host.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self._options = options
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._declared: set[str] = set()
        self._consuming: dict[str, AbstractQueue] = {}
        self._prefetch = 0
        self._inbox = Inbox(self._give_up)

    async def open(self) -> None:
        """See `Broker.open`."""
        await self.close()
        async with self._asked():
            self._connection = await aio_pika.connect(
                URL(self._options.uri).update_query(heartbeat=_HEARTBEAT_SECONDS),
                timeout=self._options.answer_seconds,
                client_properties={"connection_name": self._options.name},
            )
            self._channel = await self._connection.channel(
                publisher_confirms=True, on_return_raises=True
            )
            await self._declare_dead(self._channel)
            for route in self._options.routes:
                await self._declare(route)

    async def close(self) -> None:
        """See `Broker.close`."""
        self._inbox.clear()
        connection, self._connection, self._channel = self._connection, None, None
        self._declared.clear()
        self._consuming.clear()
        if connection is not None:
            with suppress(BrokerUnavailable):
                async with self._asked():
                    await connection.close()

    async def publish(self, hints: Sequence[Hint]) -> None:
        """See `Broker.publish`."""
        async with self._asked():
            channel = self._here()
            confirmations = []
            for hint in hints:
                name = await self._declare(route_of(hint))
                message = aio_pika.Message(
                    hint.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT
                )
                confirmations.append((name, message))
            await _all(
                [
                    channel.default_exchange.publish(message, routing_key=name)
                    for name, message in confirmations
                ]
            )

    async def receive(self, n: int, wait_seconds: float) -> Sequence[Delivery]:
        """See `Broker.receive`."""
        async with self._asked(seconds=wait_seconds + self._options.answer_seconds):
            if not self._consuming or not self._prefetch / 2 <= n <= 2 * self._prefetch:
                await self._consume(n)
            taken = await self._inbox.take(n, wait_seconds)
            if not taken:
                # A queue that was deleted, or a connection that hangs, says nothing.
                for route in self._options.routes:
                    await self._count(self._name(route))
            return taken

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.ack`."""
        async with self._asked():
            await _all([delivery.receipt.ack() for delivery in deliveries])

    async def nack(
        self, deliveries: Sequence[Delivery], delay_seconds: float = 0.0
    ) -> None:
        """See `Broker.nack`; comes back at once."""
        del delay_seconds
        async with self._asked():
            await _all(
                [delivery.receipt.reject(requeue=True) for delivery in deliveries]
            )

    async def depth(self, route: str = PLAIN) -> int:
        """See `Broker.depth`: what nobody has received."""
        async with self._asked():
            return await self._count(await self._declare(route))

    async def health(self) -> str:
        """See `Broker.health`."""
        async with self._asked():
            await self._count(await self._declare(PLAIN))
            transport = self._connection and self._connection.transport
            told: Any = transport and transport.connection.server_properties
            version = told.get("version", "") if told else ""
            if isinstance(version, bytes):
                version = version.decode(errors="replace")
            return f"RabbitMQ {version}".rstrip()

    # --- queues ----------------------------------------------------------------------

    def _asked(self, seconds: float | None = None) -> AbstractAsyncContextManager[None]:
        return asked(self._options, _VENDOR, seconds=seconds)

    def _here(self) -> AbstractChannel:
        if self._channel is None:
            raise ConnectionError("the connection is not open")
        return self._channel

    def _name(self, route: str) -> str:
        return queue_name(self._options.prefix, route)

    async def _declare_dead(self, channel: AbstractChannel) -> None:
        name = f"{self._options.prefix}.dead"
        exchange = await channel.declare_exchange(
            name, aio_pika.ExchangeType.FANOUT, durable=True
        )
        queue = await channel.declare_queue(
            name, durable=True, arguments={"x-max-length": _DEAD_MAX}
        )
        await queue.bind(exchange)

    async def _declare(self, route: str) -> str:
        """Makes a route's queue, once per connection; returns its name."""
        name = self._name(route)
        if name not in self._declared:
            await self._here().declare_queue(
                name,
                durable=True,
                arguments={
                    "x-queue-type": "quorum",
                    "x-delivery-limit": self._options.deliveries_max,
                    "x-dead-letter-exchange": f"{self._options.prefix}.dead",
                    "x-max-length": self._options.hints_max,
                    "x-overflow": "drop-head",
                },
            )
            self._declared.add(name)
        return name

    async def _count(self, name: str) -> int:
        queue = await self._here().declare_queue(name, passive=True)
        return queue.declaration_result.message_count or 0

    # --- consuming -------------------------------------------------------------------

    async def _consume(self, n: int) -> None:
        """Consumes with a prefetch of `n`, which holds for consumers made after it."""
        await self._stop_consuming()
        await self._here().set_qos(prefetch_count=n)
        self._prefetch = n
        for route in self._options.routes:
            queue = await self._here().get_queue(self._name(route), ensure=False)
            tag = await queue.consume(self._receiver(route))
            self._consuming[tag] = queue

    def _receiver(self, route: str) -> Any:
        async def deliver(message: AbstractIncomingMessage) -> None:
            self._inbox.put(Delivery(Hint.decode(message.body), route, message))

        return deliver

    async def _stop_consuming(self) -> None:
        consuming, self._consuming = self._consuming, {}
        for tag, queue in consuming.items():
            await queue.cancel(tag)

    async def _give_up(self, deliveries: Sequence[Delivery]) -> None:
        """Nobody receives: others may have what came, and what would come."""
        async with self._asked():
            await self._stop_consuming()
        # What arrived until the broker knew that we stopped is ours, too.
        await self.nack([*deliveries, *self._inbox.clear()])


async def _all(asking: Sequence[Any]) -> None:
    """Awaits all of them, pipelined; raises the first failure when all are through."""
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
