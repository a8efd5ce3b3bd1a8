"""What a worker knows of its leases while claims and renewals overtake each other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import uvloop

from threadmill.domain.lease import LeaseTimes
from threadmill.engine.activation.stop import Stop, StopReason
from threadmill.stores.records import Claim
from threadmill.worker.leases import Leases


def test_a_renewal_that_overtakes_a_claim_says_nothing_of_it() -> None:
    """Both are under way at once, and the database sees the renewal first."""
    now, stop, claim = 0.0, Stop(), _claim()
    leases = _leases(10.0, lambda: now)
    with leases.claiming() as asked_at:
        now = renewed_at = 1.0
        now = 2.0
        leases.add([claim], asked_at, stop)
    now = 3.0
    assert leases.renewed(renewed_at, held=[]) == []
    assert stop.reason is None
    leases.renewed(now, held=[])  # this one was sent when it was held: it is lost
    assert stop.reason is StopReason.LEASE_LOST


def test_a_busy_worker_too_gives_back_what_nobody_works_on() -> None:
    """However often its other tasks end, an orphan is not renewed for ever."""
    now = 0.0
    leases = _leases(10.0, lambda: now)
    orphan, *others = [_claim(token=i) for i in range(5)]
    given_back: list[Claim] = []
    for busy in others:  # a renewal every three seconds, always while one ends
        with leases.claiming() as asked_at:
            leases.add([busy], asked_at, Stop())
        now += 1.0
        renewed_at = now
        leases.ending([busy.key])
        now += 1.0
        given_back += leases.renewed(renewed_at, [orphan, busy])
        leases.drop([busy.key])
        now += 1.0
    assert {claim.key for claim in given_back} == {orphan.key}


def test_a_blocked_loop_gives_nothing_back_that_is_on_its_way() -> None:
    """It takes the reports of several renewals before it reads any answer."""
    now = 0.0
    leases = _leases(20.0, lambda: now)
    coming, never = _claim(), _claim()
    with leases.claiming() as asked_at:
        now = 8.0
        for renewed_at in (1.0, 4.0, 7.0):
            assert leases.renewed(renewed_at, [coming, never]) == []
        now = 10.0  # it goes on, and the request is still open
        assert leases.renewed(9.0, [coming, never]) == []
        leases.add([coming], asked_at, Stop())
    now = 12.0
    assert leases.renewed(11.0, [coming, never]) == [never]


def test_a_blocked_loop_knows_that_what_is_on_its_way_was_renewed() -> None:
    """The claim's answer alone would say that its lease is over."""
    alarms: list[tuple[float, Callable[[], None]]] = []
    leases = _leases(10.0, lambda: now, lambda *alarm: alarms.append(alarm))
    now, claim, stop = 0.0, _claim(), Stop()
    with leases.claiming() as asked_at:
        now = 12.0
        for renewed_at in (3.0, 11.0):
            leases.renewed(renewed_at, [claim])
        leases.add([claim], asked_at, stop)
    [(seconds, ring)] = alarms
    assert now + seconds == 20.0
    ring()
    assert stop.reason is None


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_blocked_loop_takes_the_reports_before_it_gives_anything_up(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Its alarm is due by then, and event loops see to what is due first."""
    now, claim, stop = 0.0, _claim(), Stop()

    async def story() -> None:
        loop, judged, alarms = asyncio.get_running_loop(), asyncio.Event(), 0

        def call_later(seconds: float, ring: Callable[[], None]) -> Any:
            nonlocal alarms
            alarms += 1
            if alarms == 3:  # it has rung, was judged, and is set again
                judged.set()
            return loop.call_later(seconds, ring)

        def block() -> None:
            nonlocal now
            time.sleep(0.1)
            now = 8.0
            loop.call_soon_threadsafe(leases.renewed, now, [claim])

        times = LeaseTimes(lease_seconds=10.0, margin_seconds=9.95)
        leases = Leases(times, call_later, lambda: now)
        with leases.claiming() as asked_at:
            leases.add([claim], asked_at, stop)
        # The alarm, too, is due when this is over.
        loop.call_later(0.01, block)
        time.sleep(0.1)  # noqa: ASYNC251 - blocking it is what this is about
        lost = asyncio.create_task(stop.requested())
        done = asyncio.create_task(judged.wait())
        await asyncio.wait({lost, done}, return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())
    assert stop.reason is None


def test_a_worker_that_cannot_renew_stops_before_its_lease_is_over() -> None:
    """It is cut off, and knows nothing of what others do meanwhile."""
    now, stop = 0.0, Stop()
    alarms: list[tuple[float, Callable[[], None]]] = []
    leases = _leases(
        10.0, lambda: now, lambda seconds, ring: alarms.append((now + seconds, ring))
    )
    claim, other = _claim(1), _claim(2)
    with leases.claiming() as asked_at:
        now = 1.0
        leases.add([claim], asked_at, stop)
    with leases.claiming() as asked_at:
        leases.add([other], asked_at, Stop())
    now = 3.0
    leases.renewed(2.0, held=[claim])
    # The lease of the first claim would be over, and what was renewed is not.
    # Then the other one's, and then what the renewal has added.
    reasons = []
    for over in (9.0, 10.0, 11.0):
        now, ring = alarms.pop()
        ring()
        _, judge = alarms.pop()
        judge()
        assert now == over
        reasons.append(stop.reason)
    assert reasons == [None, None, StopReason.LEASE_LOST]
    assert alarms == []


def _leases(
    seconds: float,
    clock: Callable[[], float],
    call_later: Callable[[float, Callable[[], None]], Any] = lambda *_: None,
) -> Leases:
    return Leases(LeaseTimes(lease_seconds=seconds), call_later, clock)


def _claim(token: int = 1) -> Claim:
    return Claim(
        tenant="default",
        activation_id=uuid4(),
        thread_id=uuid4(),
        run_id=uuid4(),
        token=token,
        attempt=1,
    )
