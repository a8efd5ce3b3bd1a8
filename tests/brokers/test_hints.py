"""Hints on the wire, BROKER_URI, and which adapter it means."""

from __future__ import annotations

import builtins
import sys
from importlib.metadata import EntryPoint
from typing import Any
from uuid import uuid4

import pytest

from threadmill.brokers import schemes
from threadmill.brokers.base import HINT_BYTES_MAX, Hint
from threadmill.brokers.broker import (
    BrokerOptions,
    queue_name,
    route_of,
    unavailable,
)
from threadmill.brokers.schemes import broker_of
from threadmill.errors import BadSetting
from threadmill.settings import Settings


def test_a_hint_reads_back_as_it_was_written() -> None:
    hint = Hint("g", "tenant ü", uuid4(), "task", ["a", "b"])
    assert Hint.decode(hint.encode()) == hint
    assert len({hint, Hint.decode(hint.encode())}) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b'{"v":2,"tenant":"t","thread":null,"graph":"g","kind":"step","labels":[]}',
        b'{"v":1,"tenant":"t","thread":"x","graph":"g","kind":"step","labels":[]}',
        b'{"v":1,"tenant":"t","thread":1,"graph":"g","kind":"step","labels":3}',
        b" " * (HINT_BYTES_MAX + 1),
    ],
)
def test_what_is_no_hint_of_this_release_is_none(body: bytes) -> None:
    assert Hint.decode(body) is None


def test_a_hint_is_bounded() -> None:
    with pytest.raises(ValueError, match=str(HINT_BYTES_MAX)):
        Hint("g" * HINT_BYTES_MAX).encode()


def test_queues_of_different_labels_have_different_names() -> None:
    labels = ["", "gpu", "a.b", "a_b", "a/b", "a:b", "hints", "dead"]
    names = {queue_name("p", label) for label in labels}
    assert len(names) == len(labels)
    assert route_of(Hint("g")) == ""
    assert route_of(Hint("g", labels=("gpu", "x"))) == "gpu"


@pytest.mark.parametrize(
    "uri",
    [
        "amqp://me:se%40cret@host:5672/vhost",
        "amqps://host",
        "redis://:secret@host:6379/0",
        "rediss://host/1?ssl_cert_reqs=none",
        "nats://token@a:4222,b:4222",
        "sqs://eu-central-1/threadmill",
        "kafka+ssl://host:1/x",
    ],
)
def test_a_broker_is_taken_as_it_is_written(uri: str) -> None:
    settings = Settings.from_env({"BROKER_URI": uri})
    assert settings.broker_uri is not None
    assert settings.broker_uri.get_secret_value() == uri
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    "uri",
    [
        "host:5672",
        "amqp://",
        "amqp://me:sec@ret@host",
        "amqp://me:sec/ret@host",
        "redis://host:port",
        "postgresql://me:secret@host/db",
        "sqs://eu-central-1",
        "sqs://eu-central-1/queue/more",
        "redis://me:secret@host/0 and more@x",
    ],
)
def test_a_misread_broker_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(BadSetting, match="BROKER_URI") as caught:
        Settings.from_env({"BROKER_URI": uri})
    assert "sec" not in str(caught.value).replace("percent-encoded", "")
    assert "\n" not in str(caught.value)


def test_an_unknown_scheme_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(BadSetting, match=r"pigeon://.*amqp://.*nats://.*sqs://"):
        broker_of(BrokerOptions(uri="pigeon://me:secret@host"))


@pytest.mark.parametrize(
    ("uri", "library", "module", "extra"),
    [
        ("amqp://host", "aio_pika", "rabbitmq", "rabbitmq"),
        ("rediss://host", "redis", "redis", "redis"),
        ("nats://host", "nats", "nats", "nats"),
        ("sqs://region/queue", "aiobotocore", "sqs", "sqs"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, uri: str, library: str, module: str, extra: str
) -> None:
    monkeypatch.delitem(sys.modules, f"threadmill.brokers.{module}", raising=False)
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == library:
            raise ModuleNotFoundError(name=library)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadSetting, match=rf"'{library}': pip .*threadmill\[{extra}\]"):
        broker_of(BrokerOptions(uri=uri))


def test_no_adapter_is_loaded_before_it_is_chosen() -> None:
    import subprocess

    script = (
        "import sys, threadmill.composition;"
        "print({'aio_pika', 'redis', 'nats', 'aiobotocore'} & set(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "set()"


class Pigeons:
    """Somebody's adapter."""

    def __init__(self, options: BrokerOptions) -> None:
        self.options = options


def test_others_add_a_scheme_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    here = EntryPoint("pigeon", f"{__name__}:Pigeons", schemes.ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", lambda _: Pigeons)
    monkeypatch.setattr(
        schemes,
        "entry_points",
        lambda group, name: [here] if (group, name) == (here.group, here.name) else [],
    )
    made: Any = broker_of(BrokerOptions(uri="pigeon://host"))
    assert isinstance(made, Pigeons)
    assert made.options.uri == "pigeon://host"


@pytest.mark.parametrize(
    "uri",
    [
        "nats://se%40cret@a:4222,b:4222",
        "tls://se%40cret@a",
        "nats://me:se%40cret@a",
        "nats://other@a:4222,se%40cret@b:4222",
        "nats://other@a:4222,nats://se%40cret@b:4222",
        "nats://me:other@a:4222,nats://me:se%40cret@b:4222",
        "amqp://me:se%40cret@a/vhost",
    ],
)
@pytest.mark.parametrize("said", ["{uri}", "bad login se%40cret", "bad login se@cret"])
def test_what_a_broker_says_is_told_without_secrets(uri: str, said: str) -> None:
    told = str(unavailable(BrokerOptions(uri=uri), OSError(said.format(uri=uri))))
    assert "cret" not in told
    assert "other" not in told
    assert "does not serve: " in told


def test_a_user_is_no_secret() -> None:
    told = str(unavailable(BrokerOptions(uri="amqp://me@a"), OSError("who is me?")))
    assert told == "amqp://a does not serve: who is me?"
