"""Adapters of Redis, because it starts and answers most quickly."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import pytest_asyncio

from chaos.proxy import Proxy, Target
from chaos.services import Service
from threadmill.brokers.broker import Broker, BrokerOptions
from threadmill.brokers.redis import RedisBroker

NewBroker = Callable[[Sequence[str]], Broker]


@pytest_asyncio.fixture
async def to_broker(redis_server: Service) -> AsyncIterator[Proxy]:
    """Yield a way to a broker, which the test may cut."""
    proxy = Proxy(Target("127.0.0.1", redis_server.port), random.Random(0))
    await proxy.open()
    yield proxy
    proxy.close()


@pytest.fixture
def new_broker(redis_server: Service, to_broker: Proxy) -> NewBroker:
    """Give a function that makes adapters which share the queues of one test."""
    prefix = f"test-{secrets.token_hex(6)}"

    def make(labels: Sequence[str] = ()) -> Broker:
        return RedisBroker(
            BrokerOptions(
                uri=redis_server.uri(to_broker.port),
                prefix=prefix,
                labels=labels,
                answer_seconds=1.0,
                return_seconds=60.0,
            )
        )

    return make
