"""What is done to a fleet's message broker, and to the ways that lead there.

None of it is logged as a fault but a death of a worker around a hint: a broker carries
hints only, so whatever befalls it, no node may run twice and no message get lost. Work
just takes longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from chaos.arena import Arena, Skipped
from chaos.faults import kill_at_one_of
from threadmill.brokers.base import Hint
from threadmill.brokers.broker import Broker, BrokerOptions
from threadmill.brokers.schemes import broker_of
from threadmill.errors import BrokerUnavailable

if TYPE_CHECKING:
    from chaos.aside import Aside
    from chaos.faults import FaultOf

_AWAY_SECONDS: Final = (0.5, 3.0)
_HANGS_SECONDS: Final = 7.0
_LATE_SECONDS: Final = 2.0
_STEALS_SECONDS: Final = 1.5
_OPENS_SECONDS: Final = 20.0
_OPEN_PAUSE_SECONDS: Final = 0.2
_HINTS_MAX: Final = 200
_POINTS: Final = [
    f"{step}.{side}"
    for step in ("publish", "receive", "ack")
    for side in ("before", "after")
]


def _broker(arena: Arena) -> Aside:
    if arena.broker is None:
        why = "there is no broker: --broker chooses one"
        raise Skipped(why)
    return arena.broker


def _away_seconds(arena: Arena) -> float:
    return arena.chooser.uniform(*_AWAY_SECONDS)


async def restart(arena: Arena, kind: str) -> None:
    """See `Aside.restart`."""
    del kind
    await _broker(arena).restart(_away_seconds(arena))


async def purge(arena: Arena, kind: str) -> None:
    """All hints are lost, three times in a row."""
    del kind
    for _ in range(3):
        await asyncio.to_thread(_broker(arena).service.purge)
        await asyncio.sleep(_away_seconds(arena) / 3)


async def cut(arena: Arena, kind: str) -> None:
    """See `Aside.refuse`."""
    del kind
    await _broker(arena).refuse(_away_seconds(arena))


async def part(arena: Arena, kind: str) -> None:
    """See `Aside.hang`."""
    del kind
    await _broker(arena).hang(_HANGS_SECONDS)


async def revoke(arena: Arena, kind: str) -> None:
    """The broker refuses the fleet's password, and throws everybody out."""
    del kind
    service = _broker(arena).service
    if not service.has_credentials:
        why = "this one has no passwords"
        raise Skipped(why)
    await asyncio.to_thread(service.revoke)
    await asyncio.sleep(_away_seconds(arena))
    await asyncio.to_thread(service.restore)


async def double(arena: Arena, kind: str) -> None:
    """Whatever is hinted meanwhile comes three times."""
    del kind
    await _rob(arena, lambda stolen: [hint for hint in stolen for _ in range(3)])


async def delay(arena: Arena, kind: str) -> None:
    """Whatever is hinted meanwhile comes late, and the last of it first."""
    del kind
    await _rob(arena, lambda stolen: stolen[::-1], late_seconds=_LATE_SECONDS)


async def _rob(
    arena: Arena,
    change: Callable[[Sequence[Hint]], Sequence[Hint]],
    *,
    late_seconds: float = 0.0,
) -> None:
    """Takes hints, and publishes something else instead.

    In a thread: an adapter that loads its library would hold up every way of the fleet
    to the database, which all lead through this process.
    """
    options = BrokerOptions(uri=_broker(arena).service.uri(), name="chaos")

    async def rob() -> None:
        broker = broker_of(options)
        try:
            await _open(broker)
            with suppress(BrokerUnavailable):
                stolen = await _steal(broker)
                await asyncio.sleep(late_seconds)
                await broker.publish(change(stolen))
        finally:
            await broker.close()

    await asyncio.to_thread(asyncio.run, rob())


async def _open(broker: Broker) -> None:
    """Opens it; the fault before this one may not be quite over."""
    async with asyncio.timeout(_OPENS_SECONDS):
        while True:
            with suppress(BrokerUnavailable):
                await broker.open()
                return
            await asyncio.sleep(_OPEN_PAUSE_SECONDS)


async def _steal(broker: Broker) -> Sequence[Hint]:
    """Takes what it gets for some time; workers get the rest."""
    stolen: list[Hint] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(_STEALS_SECONDS):
            while len(stolen) < _HINTS_MAX:
                got = await broker.receive(10, _STEALS_SECONDS)
                stolen += [delivery.hint for delivery in got if delivery.hint]
                await broker.ack(got)
    return stolen


async def kill_around_a_hint(arena: Arena, kind: str) -> None:
    """A worker joins that dies as it publishes, takes or acknowledges hints."""
    _broker(arena)
    await kill_at_one_of(arena, kind, _POINTS)


BROKER_FAULTS: Final[Mapping[str, FaultOf]] = {
    "killed around a hint": kill_around_a_hint,
    "broker restart": restart,
    "broker purged": purge,
    "broker connections refused": cut,
    "broker partition": part,
    "broker password revoked": revoke,
    "hints tripled": double,
    "hints late and reversed": delay,
}
