"""Hints over NATS JetStream: one work queue, one durable pull consumer per route.

A worker asks for as many hints as it has free slots. What it is sent and does not take
is given back soon. A hint that nobody acknowledges comes back after `return_seconds`;
one that is given back may be delayed. Hints older than an hour are dropped: whatever
they were about has been found by polling.

The stream and its consumers are made if they are missing, and used as they are if an
operator has made them, with replicas for example.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, Final

import nats
from nats.errors import Error as NatsError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import BadRequestError, NotFoundError

from threadmill.brokers.base import Hint
from threadmill.brokers.broker import (
    PLAIN,
    BrokerOptions,
    Delivery,
    asked,
    queue_name,
    route_of,
    unavailable,
)
from threadmill.brokers.inbox import Inbox
from threadmill.errors import BrokerUnavailable

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

# RuntimeError: uvloop's, of a connection that has been closed meanwhile.
_VENDOR: Final = (NatsError, ValueError, KeyError, RuntimeError)
_AGE_SECONDS_MAX: Final = 3600
# Answers that end a request: nothing came, it timed out, it was refused.
_OVER: Final = frozenset({"404", "408"})


class NatsBroker:
    """The `Broker` port.

    Args:
        options: `nats://` or `tls://`; user, password or token stand in the URI.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self._options = options
        self._client: Client | None = None
        self._stream = options.prefix
        self._inbox = Inbox(self.nack)
        self._inboxes: dict[str, str] = {}
        # Per route: until when hints are asked for, and how many may still come.
        self._asked_for: dict[str, tuple[float, int]] = {}

    async def open(self) -> None:
        """See `Broker.open`."""
        await self.close()
        async with self._asked():
            self._client = await nats.connect(
                self._options.uri,
                name=self._options.name,
                connect_timeout=max(1, int(self._options.answer_seconds)),
                allow_reconnect=False,
                error_cb=_ignore,
                disconnected_cb=self._on_gone,
                closed_cb=self._on_gone,
            )
            await self._make_stream()

    async def close(self) -> None:
        """See `Broker.close`."""
        client, self._client = self._client, None
        self._inboxes.clear()
        self._asked_for.clear()
        held = self._inbox.clear()
        if client is not None:
            with suppress(BrokerUnavailable):
                async with self._asked():
                    for delivery in held:
                        await delivery.receipt.nak()
                    await client.close()

    async def publish(self, hints: Sequence[Hint]) -> None:
        """See `Broker.publish`."""
        async with self._asked():
            stream = self._jetstream()
            sent = [
                stream.publish(
                    self._subject(route_of(hint)),
                    hint.encode(),
                    timeout=self._options.answer_seconds,
                )
                for hint in hints
            ]
            for outcome in await asyncio.gather(*sent, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome

    async def receive(self, n: int, wait_seconds: float) -> Sequence[Delivery]:
        """See `Broker.receive`."""
        async with self._asked(seconds=wait_seconds + self._options.answer_seconds):
            for route in self._options.routes:
                await self._ask(route, n, wait_seconds)
            taken = await self._inbox.take(n, wait_seconds)
            if not taken:
                # A connection that hangs says nothing.
                await self._here().flush(max(1, int(self._options.answer_seconds)))
            return taken

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.ack`."""
        async with self._asked():
            for delivery in deliveries:
                await delivery.receipt.ack()
            await self._here().flush(max(1, int(self._options.answer_seconds)))

    async def nack(
        self, deliveries: Sequence[Delivery], delay_seconds: float = 0.0
    ) -> None:
        """See `Broker.nack`."""
        async with self._asked():
            for delivery in deliveries:
                message = delivery.receipt
                if message.metadata.num_delivered >= self._options.deliveries_max:
                    await message.term()
                else:
                    await message.nak(delay=delay_seconds or None)

    async def depth(self, route: str = PLAIN) -> int:
        """See `Broker.depth`: with what is being looked at."""
        async with self._asked():
            told = await self._jetstream().stream_info(
                self._stream, subjects_filter=self._subject(route)
            )
            return sum((told.state.subjects or {}).values())

    async def health(self) -> str:
        """See `Broker.health`."""
        async with self._asked():
            await self._jetstream().stream_info(self._stream)
            return f"NATS {self._here().connected_server_version}"

    # --- the stream and its consumers --------------------------------------------

    def _asked(self, seconds: float | None = None) -> AbstractAsyncContextManager[None]:
        return asked(self._options, _VENDOR, seconds=seconds)

    def _here(self) -> Client:
        if self._client is None:
            raise ConnectionError("the connection is not open")
        return self._client

    def _jetstream(self) -> JetStreamContext:
        return self._here().jetstream(timeout=self._options.answer_seconds)

    def _subject(self, route: str) -> str:
        return queue_name(self._options.prefix, route)

    async def _make_stream(self) -> None:
        wanted = StreamConfig(
            name=self._stream,
            subjects=[f"{self._options.prefix}.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_msgs=self._options.hints_max,
            max_age=_AGE_SECONDS_MAX,
        )
        try:
            await self._jetstream().stream_info(self._stream)
        except NotFoundError:
            with suppress(BadRequestError):  # somebody else was quicker
                await self._jetstream().add_stream(wanted)

    async def _consumer(self, route: str) -> str:
        """The route's durable consumer; makes it, and our inbox of it, if missing."""
        durable = self._subject(route).replace(".", "_")
        if route not in self._inboxes:
            await self._jetstream().add_consumer(
                self._stream,
                ConsumerConfig(
                    durable_name=durable,
                    filter_subject=self._subject(route),
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=self._options.return_seconds,
                    max_deliver=self._options.deliveries_max,
                ),
            )
            inbox = self._here().new_inbox()
            await self._here().subscribe(inbox, cb=self._receiver(route))
            self._inboxes[route] = inbox
        return durable

    async def _ask(self, route: str, n: int, wait_seconds: float) -> None:
        """Asks for `n` hints of a route, unless some are asked for already."""
        until, left = self._asked_for.get(route, (0.0, 0))
        now = time.monotonic()
        if left > 0 and now < until:
            return
        durable = await self._consumer(route)
        wanted = {"batch": n, "expires": int(wait_seconds * 1e9)}
        self._asked_for[route] = (now + wait_seconds, n)
        await self._here().publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{durable}",
            json.dumps(wanted).encode(),
            reply=self._inboxes[route],
        )

    def _receiver(self, route: str) -> Any:
        async def deliver(message: Msg) -> None:
            status = (message.headers or {}).get("Status")
            until, left = self._asked_for.get(route, (0.0, 0))
            if status is None:
                self._asked_for[route] = (until, left - 1)
                hint = Hint.decode(message.data)
                self._inbox.put(Delivery(hint, route, message))
                return
            self._asked_for.pop(route, None)
            if status not in _OVER:
                why = (message.headers or {}).get("Description", status)
                self._fail(ConnectionError(f"asked for hints, it said: {why}"))

        return deliver

    async def _on_gone(self) -> None:
        self._fail(ConnectionError("the connection broke"))

    def _fail(self, error: Exception) -> None:
        if self._client is not None:
            self._inbox.fail(unavailable(self._options, error))


async def _ignore(_error: Exception) -> None:
    """Whoever asks next is told."""
