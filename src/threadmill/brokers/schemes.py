"""Which broker a BROKER_URI means.

Adapters are imported when one is chosen: each needs a library of its own, which comes
with an extra of this package. Others' adapters are found by the entry point group
`threadmill.brokers`, under the scheme of their URIs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

from threadmill.errors import BadSetting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from threadmill.brokers.broker import Broker, BrokerFactory, BrokerOptions

ENTRY_POINTS: Final = "threadmill.brokers"


@dataclass(frozen=True, slots=True)
class _Adapter:
    module: str
    name: str
    extra: str


_RABBITMQ: Final = _Adapter("rabbitmq", "RabbitBroker", "rabbitmq")
_REDIS: Final = _Adapter("redis", "RedisBroker", "redis")
_NATS: Final = _Adapter("nats", "NatsBroker", "nats")
_OURS: Final[Mapping[str, _Adapter]] = MappingProxyType(
    {
        "amqp": _RABBITMQ,
        "amqps": _RABBITMQ,
        "redis": _REDIS,
        "rediss": _REDIS,
        "nats": _NATS,
        "tls": _NATS,
        "sqs": _Adapter("sqs", "SqsBroker", "sqs"),
    }
)


def broker_of(options: BrokerOptions) -> Broker:
    """An adapter for the options' URI, not open yet.

    Raises:
        BadSetting: nobody knows the scheme, or the adapter's library is missing, or
            does not load.
    """
    scheme = urlsplit(options.uri).scheme
    ours = _OURS.get(scheme)
    factory = _load_foreign(scheme) if ours is None else _load(scheme, ours)
    try:
        return factory(options)
    except ValueError:
        # Not chained, and not shown: it may hold the URI.
        raise BadSetting(
            f"BROKER_URI: the adapter for {scheme}:// cannot read it"
        ) from None


def _load(scheme: str, adapter: _Adapter) -> BrokerFactory:
    try:
        module = import_module(f"threadmill.brokers.{adapter.module}")
    except ModuleNotFoundError as error:
        raise BadSetting(
            f"BROKER_URI begins with {scheme}://, which needs the package "
            f"'{error.name}': pip install 'threadmill[{adapter.extra}]'"
        ) from error
    return cast("BrokerFactory", getattr(module, adapter.name))


def _load_foreign(scheme: str) -> BrokerFactory:
    found = _foreign(scheme)
    if found is None:
        known = ", ".join(f"{scheme}://" for scheme in sorted(_OURS))
        raise BadSetting(
            f"BROKER_URI begins with {scheme}://, for which no adapter is installed; "
            f"known are {known}; leave it empty to use PostgreSQL"
        )
    try:
        return cast("BrokerFactory", found.load())
    except (ImportError, AttributeError) as error:
        raise BadSetting(
            f"BROKER_URI begins with {scheme}://, and its adapter {found.value} does "
            f"not load: {error}"
        ) from error


def _foreign(scheme: str) -> EntryPoint | None:
    return next(iter(entry_points(group=ENTRY_POINTS, name=scheme)), None)
