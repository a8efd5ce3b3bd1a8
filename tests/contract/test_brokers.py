"""The `Broker` port on every broker, for real."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chaos.proxy import Proxy, Target
from chaos.services import Service
from threadmill.brokers.broker import BrokerFactory, BrokerOptions
from threadmill.brokers.nats import NatsBroker
from threadmill.brokers.rabbitmq import RabbitBroker
from threadmill.brokers.redis import RedisBroker
from threadmill.brokers.sqs import SqsBroker
from threadmill.testing.contracts.brokers import (
    BrokerContract,
    BrokerHarness,
    options_of,
)

pytestmark = [
    pytest.mark.timeout(180),
    # Libraries let go of sockets without closing them when a connection is given up
    # while it is being made, or was lost.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_SHORT_SECONDS = 3.0


def harness_of(
    service: Service,
    make: BrokerFactory,
    monkeypatch: pytest.MonkeyPatch,
    *,
    secret: str,
    in_uri: Callable[[str, str], str] = lambda uri, _: uri,
) -> BrokerHarness:
    """A harness with queues of one test.

    Args:
        service: runs.
        make: the adapter.
        monkeypatch: of the test.
        secret: the password in its URI.
        in_uri: puts the queues' name into a URI, where it belongs there.
    """
    name = f"test-{secrets.token_hex(6)}"
    uri = in_uri(service.uri(), name)

    def options(labels: Sequence[str] = (), **more: Any) -> BrokerOptions:
        return options_of(uri, name, labels, **more)

    @asynccontextmanager
    async def way() -> AsyncIterator[tuple[Proxy, BrokerOptions]]:
        proxy = Proxy(Target("127.0.0.1", service.port), random.Random(0))
        await proxy.open()
        with monkeypatch.context() as patched:
            for variable, value in service.env(proxy.port).items():
                patched.setenv(variable, value)
            there = in_uri(service.uri(proxy.port), name)
            yield proxy, options_of(there, name, answer_seconds=_SHORT_SECONDS)
        proxy.close()

    refused = options_of(uri.replace(secret, "wrong"), name)
    return BrokerHarness(
        make=make,
        options=options,
        refused=refused if secret in uri else None,
        secret=secret,
        way=way,
    )


class TestRabbitMq(BrokerContract):
    """RabbitMQ from Debian."""

    @pytest.fixture
    def harness(
        self, rabbitmq: Service, monkeypatch: pytest.MonkeyPatch
    ) -> BrokerHarness:
        return harness_of(rabbitmq, RabbitBroker, monkeypatch, secret="secret")


class TestRedis(BrokerContract):
    """Redis from Debian."""

    @pytest.fixture
    def harness(
        self, redis_server: Service, monkeypatch: pytest.MonkeyPatch
    ) -> BrokerHarness:
        return harness_of(
            redis_server, RedisBroker, monkeypatch, secret="first%40secret"
        )


class TestValkey(BrokerContract):
    """Valkey from a wheel."""

    @pytest.fixture
    def harness(
        self, valkey_server: Service, monkeypatch: pytest.MonkeyPatch
    ) -> BrokerHarness:
        return harness_of(
            valkey_server, RedisBroker, monkeypatch, secret="first%40secret"
        )


class TestNats(BrokerContract):
    """NATS from a wheel."""

    @pytest.fixture
    def harness(
        self, nats_server: Service, monkeypatch: pytest.MonkeyPatch
    ) -> BrokerHarness:
        return harness_of(nats_server, NatsBroker, monkeypatch, secret="secret")


class TestSqs(BrokerContract):
    """Amazon SQS, as moto's server plays it."""

    @pytest.fixture
    def harness(
        self, sqs_server: Service, monkeypatch: pytest.MonkeyPatch
    ) -> BrokerHarness:
        return harness_of(
            sqs_server,
            SqsBroker,
            monkeypatch,
            secret="nothing",
            in_uri=lambda uri, name: f"{uri.rpartition('/')[0]}/{name}",
        )
