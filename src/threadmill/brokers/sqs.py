"""Hints over Amazon SQS, or whatever speaks its protocol: standard queues, long polls.

Credentials and further options come from where every AWS client looks for them;
AWS_ENDPOINT_URL leads elsewhere. A hint carries its tenant as MessageGroupId, so that
one tenant's backlog does not delay the others' (fair queues), if the server takes that
on a standard queue. A hint that nobody acknowledges becomes visible again after
`return_seconds`; one that is given back may be delayed.

Queues that are missing are made, with a redrive policy: what was delivered too often
goes to the queue `NAME-dead`. Those that exist are used as they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from math import ceil
from typing import Any, Final
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]  # it has none
from aiobotocore.session import get_session  # type: ignore[import-untyped]  # it has none
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]  # it has none

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

# RuntimeError: uvloop's, of a connection that has been closed meanwhile.
_VENDOR: Final = (BotoCoreError, ClientError, KeyError, ValueError, RuntimeError)
_START_SECONDS: Final = 30.0
# Of one request.
_BATCH_MAX: Final = 10
_POLL_SECONDS_MAX: Final = 20
# Polled by one process at once: the queue of no label, and those of its labels.
_CONNECTIONS_MAX: Final = 50
_AGE_SECONDS_MAX: Final = 3600
_MISSING: Final = ("NonExistentQueue", "QueueDoesNotExist")
_GROUP: Final = re.compile(r"[!-~]{1,128}")


class SqsBroker:
    """The `Broker` port.

    Args:
        options: `sqs://region/queue`; the queue's name begins those of the others.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self._options = options
        parts = urlsplit(options.uri)
        self._region = parts.hostname or ""
        self._queue = parts.path.strip("/")
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._urls: dict[str, str] = {}
        self._groups = True
        self._inbox = Inbox(self.nack)
        self._polls: dict[str, asyncio.Task[None]] = {}

    async def open(self) -> None:
        """See `Broker.open`; the client is kept: it has no connection to lose."""
        self._stop_polls()
        self._inbox.clear()
        self._urls.clear()
        if self._client is None:
            # It reads megabytes of descriptions, and asks for credentials.
            async with self._asked(seconds=_START_SECONDS):
                self._client = await self._stack.enter_async_context(self._new_client())
        async with self._asked():
            for route in self._options.routes:
                await self._url(route)

    async def close(self) -> None:
        """See `Broker.close`."""
        polls = self._stop_polls()
        if polls:
            await asyncio.wait(polls)
        held = self._inbox.clear()
        with suppress(BrokerUnavailable):
            if held and self._client is not None:
                await self.nack(held)
        self._client = None
        with suppress(BrokerUnavailable):
            async with self._asked():
                await self._stack.aclose()
        self._stack = AsyncExitStack()

    async def publish(self, hints: Sequence[Hint]) -> None:
        """See `Broker.publish`."""
        by_route: dict[str, list[Hint]] = {}
        for hint in hints:
            by_route.setdefault(route_of(hint), []).append(hint)
        async with self._asked():
            for route, ours in by_route.items():
                url = await self._url(route)
                for begin in range(0, len(ours), _BATCH_MAX):
                    await self._send(url, ours[begin : begin + _BATCH_MAX])

    async def receive(self, n: int, wait_seconds: float) -> Sequence[Delivery]:
        """See `Broker.receive`."""
        self._here()
        for route in self._options.routes:
            if route not in self._polls:
                poll = self._poll(route, min(n, _BATCH_MAX), wait_seconds)
                self._polls[route] = asyncio.create_task(poll, name="sqs-poll")
        return await self._inbox.take(n, wait_seconds)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.ack`."""
        async with self._asked():
            for url, entries in self._batches(deliveries):
                await self._here().delete_message_batch(QueueUrl=url, Entries=entries)

    async def nack(
        self, deliveries: Sequence[Delivery], delay_seconds: float = 0.0
    ) -> None:
        """See `Broker.nack`; in whole seconds."""
        visible = {"VisibilityTimeout": round(delay_seconds)}
        async with self._asked():
            for url, entries in self._batches(deliveries):
                await self._here().change_message_visibility_batch(
                    QueueUrl=url, Entries=[entry | visible for entry in entries]
                )

    async def depth(self, route: str = PLAIN) -> int:
        """See `Broker.depth`: what nobody has received."""
        async with self._asked():
            name = "ApproximateNumberOfMessages"
            told = await self._here().get_queue_attributes(
                QueueUrl=await self._url(route), AttributeNames=[name]
            )
            return int(told["Attributes"][name])

    async def health(self) -> str:
        """See `Broker.health`."""
        await self.depth()
        return f"SQS in {self._region}"

    # --- queues ----------------------------------------------------------------------

    def _new_client(self) -> Any:
        answer = self._options.answer_seconds
        return get_session().create_client(
            "sqs",
            region_name=self._region,
            config=AioConfig(
                connect_timeout=answer,
                read_timeout=_POLL_SECONDS_MAX + answer,
                retries={"max_attempts": 0},
                max_pool_connections=_CONNECTIONS_MAX,
            ),
        )

    def _asked(self, seconds: float | None = None) -> AbstractAsyncContextManager[None]:
        return asked(self._options, _VENDOR, seconds=seconds)

    def _here(self) -> Any:
        if self._client is None:
            raise unavailable(self._options, ConnectionError("it is not open"))
        return self._client

    async def _url(self, route: str) -> str:
        """The address of a route's queue, which is made if it is missing."""
        if route not in self._urls:
            name = self._queue
            if route != PLAIN:
                name = queue_name(self._queue, route, "-")
            dead = f"{self._queue}-dead"
            self._urls[route] = await self._find(name) or await self._make(name, dead)
        return self._urls[route]

    async def _find(self, name: str) -> str | None:
        try:
            found = await self._here().get_queue_url(QueueName=name)
        except ClientError as error:
            if error.response["Error"]["Code"].endswith(_MISSING):
                return None
            raise
        return str(found["QueueUrl"])

    async def _make(self, name: str, dead: str) -> str:
        client = self._here()
        made = await client.create_queue(QueueName=dead)
        told = await client.get_queue_attributes(
            QueueUrl=made["QueueUrl"], AttributeNames=["QueueArn"]
        )
        redrive = {
            "deadLetterTargetArn": told["Attributes"]["QueueArn"],
            "maxReceiveCount": self._options.deliveries_max,
        }
        made = await client.create_queue(
            QueueName=name,
            Attributes={
                "RedrivePolicy": json.dumps(redrive),
                "MessageRetentionPeriod": str(_AGE_SECONDS_MAX),
            },
        )
        return str(made["QueueUrl"])

    async def _send(self, url: str, hints: Sequence[Hint]) -> None:
        entries = [
            {"Id": str(number), "MessageBody": hint.encode().decode()}
            | ({"MessageGroupId": _group(hint.tenant)} if self._groups else {})
            for number, hint in enumerate(hints)
        ]
        try:
            told = await self._here().send_message_batch(QueueUrl=url, Entries=entries)
            refused = [failed["Code"] for failed in told.get("Failed", ())]
        except ClientError as error:
            refused = [error.response["Error"]["Code"]]
            if not (self._groups and _is_of_groups(refused)):
                raise
        if self._groups and _is_of_groups(refused):
            self._groups = False
            await self._send(url, hints)
        elif refused:
            raise ConnectionError(f"hints were refused: {refused[0]}")

    async def _poll(self, route: str, n: int, wait_seconds: float) -> None:
        """One long poll of a route; what it brings, or its failure, is in the inbox."""
        wait = min(ceil(wait_seconds), _POLL_SECONDS_MAX)
        try:
            async with self._asked(seconds=wait + self._options.answer_seconds):
                told = await self._here().receive_message(
                    QueueUrl=await self._url(route),
                    MaxNumberOfMessages=n,
                    WaitTimeSeconds=wait,
                    VisibilityTimeout=max(1, round(self._options.return_seconds)),
                )
        except BrokerUnavailable as error:
            self._inbox.fail(error)
        else:
            for message in told.get("Messages", ()):
                hint = Hint.decode(message["Body"].encode())
                self._inbox.put(Delivery(hint, route, message["ReceiptHandle"]))
        finally:
            if self._polls.get(route) is asyncio.current_task():
                del self._polls[route]

    def _stop_polls(self) -> Sequence[asyncio.Task[None]]:
        polls = list(self._polls.values())
        self._polls.clear()
        for poll in polls:
            poll.cancel()
        return polls

    def _batches(
        self, deliveries: Sequence[Delivery]
    ) -> Sequence[tuple[str, list[dict[str, Any]]]]:
        """What one request each takes: a queue's address, and its entries."""
        by_route: dict[str, list[Delivery]] = {}
        for delivery in deliveries:
            by_route.setdefault(delivery.route, []).append(delivery)
        return [
            (
                self._urls[route],
                [
                    {"Id": str(number), "ReceiptHandle": delivery.receipt}
                    for number, delivery in enumerate(ours[begin : begin + _BATCH_MAX])
                ],
            )
            for route, ours in by_route.items()
            for begin in range(0, len(ours), _BATCH_MAX)
        ]


def _group(tenant: str) -> str:
    """The tenant as a MessageGroupId, which takes few letters."""
    if _GROUP.fullmatch(tenant):
        return tenant
    return hashlib.sha256(tenant.encode()).hexdigest()


def _is_of_groups(codes: Sequence[str]) -> bool:
    """Whether a server says that it knows no groups on a standard queue."""
    return any("InvalidParameter" in code for code in codes)
