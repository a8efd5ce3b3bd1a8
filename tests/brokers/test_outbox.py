"""Publishing waits for nobody, loses nothing within its bound, and recovers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from chaos.proxy import Proxy
from tests.brokers.conftest import NewBroker
from threadmill.brokers.base import UNKNOWN_WORK, Hint
from threadmill.brokers.broker import Broker, Delivery
from threadmill.brokers.outbox import BrokerHints
from threadmill.brokers.postgres import PostgresHints

pytestmark = pytest.mark.timeout(60)


class Everybody:
    """What would go to all processes."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def tell_here(self, hint: Hint) -> None:
        self.told.append(("here", hint.graph_id))

    def ready(self, hint: Hint, n: int = 1) -> None:
        del n
        self.told.append(("ready", hint.graph_id))

    def moved(self, tenant: str, thread_id: UUID) -> None:
        self.told.append(("moved", tenant, thread_id))

    def stop(self, activation_id: UUID, token: int) -> None:
        self.told.append(("stop", activation_id, token))


def hints_over(broker: Any, everybody: Everybody, **more: Any) -> BrokerHints:
    return BrokerHints(broker, cast("PostgresHints", everybody), **more)


async def receive(broker: Broker, n: int) -> Sequence[Delivery]:
    got: list[Delivery] = []
    while len(got) < n:
        got += await broker.receive(n, 1.0)
    await broker.ack(got)
    return got


@pytest_asyncio.fixture
async def worker(new_broker: NewBroker) -> AsyncIterator[Broker]:
    """Yield an open adapter that receives, also labels."""
    broker = new_broker(["gpu"])
    await broker.open()
    yield broker
    await broker.close()


async def test_only_what_concerns_one_worker_goes_through_the_broker(
    new_broker: NewBroker, worker: Broker
) -> None:
    everybody = Everybody()
    hints = hints_over(new_broker([]), everybody)
    await hints.start()
    thread, activation = uuid4(), uuid4()
    hints.ready(Hint("g", "t", thread, labels=["gpu"]))
    hints.moved("t", thread)
    hints.stop(activation, 7)
    hints.ready(UNKNOWN_WORK)
    (got,) = await receive(worker, 1)
    assert got.hint == Hint("g", "t", thread, labels=("gpu",))
    assert everybody.told == [
        ("here", "g"),
        ("moved", "t", thread),
        ("stop", activation, 7),
        ("ready", ""),
    ]
    await hints.close()


async def test_the_same_hint_is_published_once_and_a_wide_one_so_often(
    new_broker: NewBroker, worker: Broker
) -> None:
    hints = hints_over(new_broker([]), Everybody())
    one, wide = Hint("one"), Hint("wide", kind="task")
    for _ in range(5):
        hints.ready(one)
        hints.ready(wide, 3)
    assert hints.waiting == 4
    await hints.start()
    got = await receive(worker, 4)
    assert sorted(d.hint.graph_id for d in got if d.hint) == ["one", *["wide"] * 3]
    await hints.close()
    assert list(await worker.receive(5, 0.2)) == []


async def test_without_a_broker_the_caller_notices_nothing_and_memory_is_bounded(
    to_broker: Proxy, new_broker: NewBroker, worker: Broker
) -> None:
    to_broker.refuse()
    hints = hints_over(new_broker([]), Everybody(), waiting_max=100)
    with capture_logs() as logs:
        await hints.start()
        for i in range(150):
            hints.ready(Hint(f"g{i}"))
        hints.ready(Hint("x" * 5000))
        assert (hints.waiting, hints.dropped) == (100, 51)
        while not logs:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        to_broker.mend()
        # By itself, and with what was kept.
        await worker.open()
        got = await receive(worker, 100)
    assert {d.hint.graph_id for d in got if d.hint} == {f"g{i}" for i in range(100)}
    assert [log["event"] for log in logs] == [
        "broker.publishing.broken",
        "broker.publishing.recovered",
    ]
    assert "first" not in str(logs)
    await hints.close()


async def test_hints_of_an_outage_in_mid_load_arrive_afterwards(
    to_broker: Proxy, new_broker: NewBroker, worker: Broker
) -> None:
    hints = hints_over(new_broker([]), Everybody())
    await hints.start()
    hints.ready(Hint("before"))
    await receive(worker, 1)
    to_broker.refuse()
    for i in range(250):
        hints.ready(Hint(f"g{i}"))
    to_broker.mend()
    await worker.open()
    seen: set[str] = set()
    while len(seen) < 250:
        seen |= {d.hint.graph_id for d in await receive(worker, 1) if d.hint}
    await hints.close()


async def test_closing_publishes_what_waits(
    new_broker: NewBroker, worker: Broker
) -> None:
    """A process that ends tells of its last commit."""
    hints = hints_over(new_broker([]), Everybody())
    await hints.start()
    hints.ready(Hint("last"))
    await hints.close()
    (got,) = await receive(worker, 1)
    assert got.hint == Hint("last")
