"""Port of message brokers: a hint that there is work reaches one worker.

NOTIFY wakes every worker for each hint, and all but one of them in vain. A broker keeps
hints in queues, of which each hint goes to one worker with a free slot. The database
stays the truth: what a broker loses, doubles or delays costs time, and nothing else.

There is a queue for each *route*: one for work that needs no label, and one for each
label. A worker consumes the first and those of its own labels. An activation that needs
several labels goes by the first of them; whoever gets it without having all of them
passes it on.

An adapter promises what the contract suite tests
(`threadmill.testing.contracts.brokers`). It serves one event loop, raises
`BrokerUnavailable` and nothing else, and is opened again after that. Others are found
by the entry point group ``threadmill.brokers``: its name is the scheme, its value takes
`BrokerOptions` and returns a `Broker`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from threadmill.errors import BrokerUnavailable

if TYPE_CHECKING:
    from threadmill.brokers.base import Hint

#: The route of work that needs no label.
PLAIN: Final = ""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
_REASON_CHARACTERS_MAX: Final = 200
# Where a login without a password is a token.
_TOKEN_SCHEMES: Final = frozenset({"nats", "tls"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """What an adapter is made of.

    Args:
        uri: BROKER_URI; holds a password.
        name: tells the broker's operators who is connected.
        prefix: begins the name of every queue.
        labels: of the worker that receives; its routes are `routes`.
        answer_seconds: the longest wait for any answer of the broker.
        return_seconds: when a hint comes back that nobody has acknowledged, where the
            broker does not see that its receiver has gone.
        deliveries_max: how often a hint is delivered before it is given up.
        hints_max: how many a queue keeps; what is beyond is dropped, oldest first,
            where the broker can.
    """

    uri: str = field(repr=False)
    name: str = "threadmill"
    prefix: str = "threadmill"
    labels: Sequence[str] = ()
    answer_seconds: float = 5.0
    return_seconds: float = 30.0
    deliveries_max: int = 10
    hints_max: int = 100_000

    @property
    def routes(self) -> Sequence[str]:
        """What a worker with these labels consumes."""
        return (PLAIN, *self.labels)

    @property
    def address(self) -> str:
        """Where the broker is: never a user, a password or a query."""
        parts = urlsplit(self.uri)
        # The path, too: in a list of servers it is where the others are.
        place = f"{parts.netloc}{parts.path}".rpartition("@")[2]
        return f"{parts.scheme}://{place}".rstrip("/")


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A received hint.

    Args:
        hint: None if it cannot be read: acknowledge it.
        route: where it came from.
        receipt: the adapter's own.
    """

    hint: Hint | None
    route: str
    receipt: Any


class Broker(Protocol):
    """One connection to a message broker.

    Every method but `close` raises `BrokerUnavailable`, and says why without a
    password. Cancelling any of them loses no hint: what was received comes back.
    """

    async def open(self) -> None:
        """Connects, and makes the queues that are missing; called again after errors.

        Drops the former connection; what it held unacknowledged comes back.
        """
        ...

    async def close(self) -> None:
        """Gives back what it holds and ends; never raises, safe to call twice."""
        ...

    async def publish(self, hints: Sequence[Hint]) -> None:
        """Returns when the broker has all of them.

        After an error it may have any of them.
        """
        ...

    async def receive(self, n: int, wait_seconds: float) -> Sequence[Delivery]:
        """Waits for hints of the options' labels.

        What is received beyond `n` is soon given back.

        Args:
            n: the most, at least 1.
            wait_seconds: how long to wait for the first one.

        Returns:
            At most `n`, and none if none came.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Forgets them: they were acted on."""
        ...

    async def nack(
        self, deliveries: Sequence[Delivery], delay_seconds: float = 0.0
    ) -> None:
        """Gives them back; each is given up after `deliveries_max` deliveries.

        Args:
            deliveries: received, not acknowledged.
            delay_seconds: come back no earlier, where the broker can delay; at once
                where it cannot.
        """
        ...

    async def depth(self, route: str = PLAIN) -> int:
        """How many hints wait there, about."""
        ...

    async def health(self) -> str:
        """Asks the broker for an answer; returns its name and version."""
        ...


BrokerFactory = Callable[[BrokerOptions], Broker]


def route_of(hint: Hint) -> str:
    """Where a hint goes."""
    return hint.labels[0] if hint.labels else PLAIN


def queue_name(prefix: str, route: str, separator: str = ".") -> str:
    """The queue of a route, in letters that every broker takes."""
    if route == PLAIN:
        return f"{prefix}{separator}hints"
    safe = _UNSAFE.sub("_", route)
    if safe != route:
        safe += f"-{hashlib.sha256(route.encode()).hexdigest()[:8]}"
    return f"{prefix}{separator}label{separator}{safe}"


@asynccontextmanager
async def asked(
    options: BrokerOptions,
    vendor: tuple[type[Exception], ...],
    *,
    seconds: float | None = None,
) -> AsyncIterator[None]:
    """Bounds what is asked of a broker, and translates how it fails.

    Args:
        options: of the adapter.
        vendor: what its library raises.
        seconds: the longest wait; `answer_seconds` if None.

    Raises:
        BrokerUnavailable: it failed, or took too long.
    """
    failures: tuple[type[Exception], ...] = (OSError, TimeoutError, *vendor)
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        async with asyncio.timeout(seconds or options.answer_seconds):
            yield
    except failures as error:
        # Not chained: the vendor's error may hold the password.
        raise unavailable(options, error) from None
    except asyncio.CancelledError:
        # Some libraries cancel what waits on a connection that has broken.
        if task is not None and task.cancelling() > before:
            raise
        raise unavailable(options, ConnectionError("the connection broke")) from None


def unavailable(options: BrokerOptions, error: BaseException) -> BrokerUnavailable:
    """What the broker or the system said, in one line without a password."""
    lines = str(error).splitlines()
    reason = lines[0] if lines else type(error).__name__
    if isinstance(error, TimeoutError):
        reason = "no answer in time"
    # A library may show the URI in a way that the redaction of logs does not know.
    for secret in _secrets(options.uri):
        reason = reason.replace(secret, "***")
    reason = reason[:_REASON_CHARACTERS_MAX]
    return BrokerUnavailable(f"{options.address} does not serve: {reason}")


def _secrets(uri: str) -> Sequence[str]:
    """What must not be shown of a URI, the longest first."""
    parts = urlsplit(uri)
    found = {parts.password or ""}
    if parts.scheme in _TOKEN_SCHEMES:
        for server in uri.split(","):
            login = server.rpartition("://")[2].rpartition("@")[0]
            user, _, password = login.partition(":")
            found.add(password or user)
    known = {form for secret in found if secret for form in (secret, unquote(secret))}
    return sorted({uri, *known} if known else (), key=len, reverse=True)
