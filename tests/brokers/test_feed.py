"""A worker's feed: no more hints than free slots, acknowledged after the claim."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos.proxy import Proxy
from tests.brokers.conftest import NewBroker
from threadmill.brokers.base import Hint
from threadmill.brokers.broker import Broker
from threadmill.worker.feed import HintFeed
from threadmill.worker.worker import Looked

pytestmark = pytest.mark.timeout(60)


class Worker:
    """A worker whose looks the test answers."""

    def __init__(self, slots: int = 3) -> None:
        self.slots = slots
        self.free = asyncio.Event()
        self.free.set()
        self.looks: asyncio.Queue[asyncio.Future[Looked]] = asyncio.Queue()
        self.woken: asyncio.Queue[None] = asyncio.Queue()

    async def room(self) -> int:
        await self.free.wait()
        return self.slots

    async def look(self) -> Looked:
        answer: asyncio.Future[Looked] = asyncio.get_running_loop().create_future()
        self.looks.put_nowait(answer)
        return await answer

    def is_for_me(self, hint: Hint) -> bool:
        return hint.graph_id.startswith("mine")

    def on_ready(self, graph_id: str | None) -> None:
        assert graph_id is None
        self.woken.put_nowait(None)


class Others:
    """Who is told of hints that are not for the worker."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pass_on(self, hint: Hint) -> None:
        self.told.append(hint.graph_id)


@pytest_asyncio.fixture
async def server(new_broker: NewBroker) -> AsyncIterator[Broker]:
    """Yield an open adapter that publishes."""
    broker = new_broker([])
    await broker.open()
    yield broker
    await broker.close()


async def until_empty(broker: Broker) -> None:
    """Waits until everything is acknowledged."""
    while await broker.depth():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_hint_is_acknowledged_after_the_claim_and_not_before(
    new_broker: NewBroker, server: Broker
) -> None:
    worker = Worker()
    feed = HintFeed(new_broker([]), worker, Others(), wait_seconds=0.5)
    await feed.start()
    await server.publish([Hint("mine")])
    answer = await worker.looks.get()
    assert await server.depth() == 1
    answer.set_result(Looked.ASKED)
    await until_empty(server)
    assert feed.received == 1
    await feed.close()


@pytest.mark.parametrize("looked", [Looked.FULL, Looked.LEAVING, Looked.FAILED])
async def test_a_hint_that_could_not_be_acted_on_is_given_back(
    new_broker: NewBroker, server: Broker, looked: Looked
) -> None:
    worker = Worker()
    feed = HintFeed(new_broker([]), worker, Others(), wait_seconds=0.5)
    await feed.start()
    await server.publish([Hint("mine")])
    (await worker.looks.get()).set_result(looked)
    (await worker.looks.get()).set_result(Looked.ASKED)
    await until_empty(server)
    assert feed.received == 2
    await feed.close()


async def test_a_worker_without_room_receives_nothing(
    new_broker: NewBroker, server: Broker
) -> None:
    full, idle = Worker(), Worker(slots=2)
    full.free.clear()
    feeds = [
        HintFeed(new_broker([]), worker, Others(), wait_seconds=0.5)
        for worker in (full, idle)
    ]
    for feed in feeds:
        await feed.start()
    await server.publish([Hint(f"mine {i}") for i in range(4)])
    for _ in range(2):
        (await idle.looks.get()).set_result(Looked.ASKED)
    await until_empty(server)
    assert full.looks.empty()
    assert [feed.received for feed in feeds] == [0, 4]
    for feed in feeds:
        await feed.close()


async def test_a_hint_for_another_worker_is_passed_on_once_and_not_given_back(
    new_broker: NewBroker, server: Broker
) -> None:
    """Fleets whose workers load different graphs do not spin on hints."""
    worker, others = Worker(), Others()
    feed = HintFeed(new_broker([]), worker, others, wait_seconds=0.5)
    await feed.start()
    await server.publish([Hint("theirs")])
    await until_empty(server)
    assert (others.told, feed.received) == (["theirs"], 1)
    assert worker.looks.empty()
    await feed.close()


async def test_a_feed_whose_broker_comes_back_goes_on_and_looks_once(
    to_broker: Proxy, new_broker: NewBroker, server: Broker
) -> None:
    worker = Worker()
    feed = HintFeed(new_broker([]), worker, Others(), wait_seconds=0.5)
    await feed.start()
    await worker.woken.get()
    to_broker.refuse()
    while feed.receiving:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    to_broker.mend()
    await worker.woken.get()
    await server.open()
    await server.publish([Hint("mine")])
    (await worker.looks.get()).set_result(Looked.ASKED)
    await until_empty(server)
    await feed.close()


async def test_what_cannot_be_read_is_forgotten(
    new_broker: NewBroker, server: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another release's, for example."""
    worker = Worker()
    monkeypatch.setattr(Hint, "encode", lambda _: b"?")
    await server.publish([Hint("mine")])
    feed = HintFeed(new_broker([]), worker, Others(), wait_seconds=0.5)
    await feed.start()
    await until_empty(server)
    assert worker.looks.empty()
    await feed.close()


class Clinging(Worker):
    """A worker whose look does not end before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def look(self) -> Looked:
        try:
            return await super().look()
        finally:
            await self.may_end.wait()


async def test_whoever_closes_may_be_cancelled_while_the_feed_clings(
    new_broker: NewBroker, server: Broker
) -> None:
    worker = Clinging()
    feed = HintFeed(new_broker([]), worker, Others(), wait_seconds=0.5)
    await feed.start()
    await server.publish([Hint("mine")])
    await worker.looks.get()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await feed.close()
    worker.may_end.set()
    await feed.close()
