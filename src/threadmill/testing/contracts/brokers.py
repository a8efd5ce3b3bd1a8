"""What every adapter of the `Broker` port must hold, on the real thing.

An adapter's tests inherit `BrokerContract` and give it a fixture `harness`::

    class TestRedis(BrokerContract):
        @pytest.fixture
        def harness(self, redis_server): ...
"""

# ruff: noqa: S101, D102 - tests: they assert, and their names are sentences

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from threadmill.brokers.base import Hint
from threadmill.brokers.broker import PLAIN, BrokerOptions
from threadmill.errors import BrokerUnavailable

if TYPE_CHECKING:
    from threadmill.brokers.broker import Broker, BrokerFactory, Delivery

_WAIT_SECONDS = 1.0
_DEADLINE_SECONDS = 45.0
_RETURN_SECONDS = 2.0
_DELIVERIES_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerHarness:
    """What the suite needs of an adapter.

    Args:
        make: makes one.
        options: of a broker that runs, with queues of the test's own.
        refused: the same, with a wrong password; None where there are no passwords.
        secret: what must never be told.
        way: opens a way to the broker that refuses, hangs and is mended; gives it, and
            the options that lead through it.
    """

    make: BrokerFactory
    options: Callable[..., BrokerOptions]
    refused: BrokerOptions | None
    secret: str
    way: Callable[[], Any]


def hints(n: int, *labels: str) -> list[Hint]:
    """So many different ones."""
    return [Hint(f"graph-{i}", "tenant", uuid4(), "step", labels) for i in range(n)]


class BrokerContract:
    """Inherit and provide `harness`."""

    # ------------------------------------------------------------ one worker for each

    async def test_hints_arrive_as_they_were_published(
        self, harness: BrokerHarness
    ) -> None:
        sent = [
            Hint("a graph", "tenant ü/1", uuid4(), "task"),
            Hint("g", "t", None, "join"),
        ]
        async with opened(harness) as broker:
            await broker.publish(sent)
            got = await receive(broker, 2)
            assert {delivery.hint for delivery in got} == set(sent)
            assert {delivery.route for delivery in got} == {PLAIN}
            await broker.ack(got)

    async def test_no_more_are_received_than_there_is_room_for(
        self, harness: BrokerHarness
    ) -> None:
        async with opened(harness) as broker:
            await broker.publish(hints(7))
            seen = 0
            async with asyncio.timeout(_DEADLINE_SECONDS):
                while seen < 7:
                    got = await broker.receive(2, _WAIT_SECONDS)
                    assert len(got) <= 2
                    seen += len(got)
                    await broker.ack(got)

    async def test_each_hint_goes_to_one_of_many(self, harness: BrokerHarness) -> None:
        sent = hints(40)
        got: list[Hint | None] = []

        async def work(broker: Broker) -> None:
            while len(got) < len(sent):
                batch = await broker.receive(3, 0.2)
                got.extend(delivery.hint for delivery in batch)
                await broker.ack(batch)

        async with opened(harness) as first, opened(harness) as second:
            await first.publish(sent)
            async with asyncio.timeout(_DEADLINE_SECONDS):
                await asyncio.gather(work(first), work(second))
        assert sorted(h.graph_id for h in got if h) == sorted(h.graph_id for h in sent)

    async def test_what_one_worker_has_no_room_for_another_one_gets(
        self, harness: BrokerHarness
    ) -> None:
        """A worker that has stopped receiving holds nothing back."""
        async with opened(harness) as full, opened(harness) as idle:
            await full.publish(hints(6))
            held = await receive(full, 1)
            got = await receive(idle, 5)
            assert len({d.hint for d in [*held, *got]}) == 6
            await full.ack(held)
            await idle.ack(got)

    async def test_without_hints_nothing_is_received(
        self, harness: BrokerHarness
    ) -> None:
        async with opened(harness) as broker:
            assert list(await broker.receive(5, 0.3)) == []

    async def test_a_hint_wakes_who_waits_for_it(self, harness: BrokerHarness) -> None:
        async with opened(harness) as broker, opened(harness) as other:
            waiting = asyncio.create_task(receive(broker, 1))
            await asyncio.sleep(0)
            await other.publish(hints(1))
            await broker.ack(await waiting)

    # ------------------------------------------------------------ acknowledging

    async def test_what_is_acknowledged_does_not_come_back(
        self, harness: BrokerHarness
    ) -> None:
        async with opened(harness) as broker:
            await broker.publish(hints(3))
            await broker.ack(await receive(broker, 3))
        async with opened(harness) as broker:
            assert list(await broker.receive(3, _RETURN_SECONDS + 1)) == []
            assert await broker.depth() == 0

    async def test_what_is_given_back_comes_to_another_one(
        self, harness: BrokerHarness
    ) -> None:
        async with opened(harness) as broker, opened(harness) as other:
            await broker.publish(hints(1))
            first = await receive(broker, 1)
            await broker.nack(first)
            again = await receive(other, 1)
            assert again[0].hint == first[0].hint
            await other.ack(again)

    async def test_what_a_dead_worker_held_comes_back(
        self, harness: BrokerHarness
    ) -> None:
        """It received, and was gone before it acknowledged."""
        dead = harness.make(harness.options())
        await dead.open()
        await dead.publish(hints(2))
        lost = await receive(dead, 2)
        await dead.close()
        async with opened(harness) as broker:
            again = await receive(broker, 2)
            assert {d.hint for d in again} == {d.hint for d in lost}
            await broker.ack(again)

    async def test_a_hint_that_is_given_back_again_and_again_is_given_up(
        self, harness: BrokerHarness
    ) -> None:
        """Nobody spins on what nobody takes."""
        async with opened(harness) as broker:
            await broker.publish(hints(1))
            async with asyncio.timeout(_DEADLINE_SECONDS):
                times = 0
                while got := await broker.receive(1, _RETURN_SECONDS + 2):
                    times += 1
                    assert times <= _DELIVERIES_MAX + 1
                    await broker.nack(got)
            assert times >= _DELIVERIES_MAX

    # ------------------------------------------------------------ labels

    async def test_labels_route(self, harness: BrokerHarness) -> None:
        plain, gpu, odd = hints(1), hints(1, "gpu"), hints(1, "a.b:c/d-1")
        async with (
            opened(harness) as nobody,
            opened(harness, "gpu") as worker,
            opened(harness, "a.b:c/d-1") as other,
        ):
            await nobody.publish([*gpu, *odd])
            assert list(await nobody.receive(5, 0.3)) == []
            for broker, sent in ((worker, gpu), (other, odd)):
                got = await receive(broker, 1)
                assert [d.hint for d in got] == sent
                await broker.ack(got)
            await nobody.publish(plain)
            got = await receive(worker, 1)
            assert [d.hint for d in got] == plain
            await worker.ack(got)

    async def test_the_first_hint_of_a_label_waits_for_its_first_worker(
        self, harness: BrokerHarness
    ) -> None:
        async with opened(harness) as server:
            await server.publish(hints(1, "gpu"))
            assert await server.depth("gpu") == 1
        async with opened(harness, "gpu") as worker:
            await worker.ack(await receive(worker, 1))

    # ------------------------------------------------------------ looking at it

    async def test_the_depth_counts_what_waits(self, harness: BrokerHarness) -> None:
        async with opened(harness) as broker:
            assert await broker.depth() == 0
            await broker.publish(hints(5))
            async with asyncio.timeout(_DEADLINE_SECONDS):
                # Some count later than they confirm.
                while await broker.depth() != 5:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def test_a_healthy_broker_says_what_it_is(
        self, harness: BrokerHarness
    ) -> None:
        async with opened(harness) as broker:
            assert await broker.health()

    # ------------------------------------------------------------ being away

    async def test_a_broker_that_is_away_is_an_error_without_a_password(
        self, harness: BrokerHarness
    ) -> None:
        async with harness.way() as (way, nowhere):
            way.refuse()
            for options in filter(None, (nowhere, harness.refused)):
                broker = harness.make(options)
                with pytest.raises(BrokerUnavailable) as caught:
                    await broker.open()
                told = f"{caught.value!r} {caught.value} {options!r}"
                assert harness.secret not in told
                assert caught.value.__cause__ is None
                with pytest.raises(BrokerUnavailable):
                    await broker.publish(hints(1))
                await broker.close()

    async def test_a_connection_that_breaks_is_an_error_and_opens_again(
        self, harness: BrokerHarness
    ) -> None:
        async with harness.way() as (way, options):
            broker = harness.make(options)
            await broker.open()
            await broker.publish(hints(1))
            way.refuse()
            async with asyncio.timeout(_DEADLINE_SECONDS):
                with pytest.raises(BrokerUnavailable):
                    await receive(broker, 1_000)
            with pytest.raises(BrokerUnavailable):
                await broker.publish(hints(1))
            way.mend()
            await broker.open()
            await broker.publish(hints(1))
            await broker.ack(await receive(broker, 2))
            await broker.close()

    async def test_a_broker_that_hangs_is_an_error_in_bounded_time(
        self, harness: BrokerHarness
    ) -> None:
        """A partition: nothing passes, and nobody is told."""
        async with harness.way() as (way, options):
            broker = harness.make(options)
            await broker.open()
            way.hang()
            async with asyncio.timeout(_DEADLINE_SECONDS):
                with pytest.raises(BrokerUnavailable):
                    await broker.publish(hints(1))
                with pytest.raises(BrokerUnavailable):
                    await receive(broker, 1_000)
                with pytest.raises(BrokerUnavailable):
                    await broker.open()
                way.mend()
                await broker.open()
                await broker.publish(hints(1))
                await broker.close()

    async def test_closing_twice_and_unopened_does_no_harm(
        self, harness: BrokerHarness
    ) -> None:
        broker = harness.make(harness.options())
        await broker.close()
        await broker.open()
        await broker.close()
        await broker.close()
        await broker.open()
        await broker.close()


def options_of(
    uri: str, prefix: str, labels: Sequence[str] = (), **more: Any
) -> BrokerOptions:
    """Options with short times."""
    return BrokerOptions(
        uri=uri,
        prefix=prefix,
        labels=labels,
        answer_seconds=more.pop("answer_seconds", 5.0),
        return_seconds=_RETURN_SECONDS,
        deliveries_max=_DELIVERIES_MAX,
        **more,
    )


@asynccontextmanager
async def opened(harness: BrokerHarness, *labels: str) -> AsyncIterator[Broker]:
    """An open adapter of a worker with these labels."""
    broker = harness.make(harness.options(labels))
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


async def receive(broker: Broker, n: int) -> Sequence[Delivery]:
    """Receives so many, however often that takes."""
    got: list[Delivery] = []
    async with asyncio.timeout(_DEADLINE_SECONDS):
        while len(got) < n:
            got += await broker.receive(n - len(got), _WAIT_SECONDS)
    return got
