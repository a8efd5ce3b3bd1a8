"""What a seed stands for: a fleet, its clients, and what goes wrong when.

Everything is drawn here, before anything happens, but for what befalls single calls and
hints: those draw from the same seed while it runs. Seconds are the world's; the
durations are short ones of real settings, in the same proportions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.simulation.bus import BusRules
from tests.simulation.process import ProcessRules
from tests.simulation.script import script_of
from tests.simulation.wire import WireRules
from threadmill.domain.lease import LeaseTimes
from threadmill.domain.multitask import MultitaskStrategy
from threadmill.engine.activate import ActivateRules
from threadmill.engine.activation.entry import EntryLimits
from threadmill.engine.sweep import SweepRules
from threadmill.worker.desk import DeskRules
from threadmill.worker.worker import WorkerRules

ATTEMPTS_MAX = 3
LEASE_SECONDS = 2.0
FAULTS_SECONDS = 3.0
# One schedule of so many is without faults, and another one with a poison node only.
_KINDS = 10


@dataclass(frozen=True, slots=True)
class Message:
    """A run that a client asks for."""

    at: float
    thread: int
    kwargs: dict[str, Any]
    strategy: MultitaskStrategy
    after_seconds: float
    cancel_after: float | None


@dataclass(frozen=True, slots=True)
class Update:
    """A state update; its caller may be gone before it ends it."""

    at: float
    thread: int
    dies: bool


@dataclass(frozen=True, slots=True)
class Fault:
    """Something befalls a process, or (`outage`, `restart`) the store."""

    at: float
    kind: str
    process: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One schedule.

    Args:
        quiet: nothing goes wrong in it, so nothing may be done twice.
        poisoned: nothing but one node that kills its workers, every time.
    """

    seed: int
    threads: int
    processes: int
    messages: list[Message]
    updates: list[Update]
    faults: list[Fault]
    rules: ProcessRules
    wire: WireRules
    bus: BusRules
    locked_chance: float
    quiet: bool = False
    poisoned: bool = False


def plan_of(seed: int) -> Plan:
    """The schedule of a seed; each tenth is a quiet one, and each tenth poisoned."""
    plan = _eventful(seed)
    match seed % _KINDS:
        case 9:
            return _calmed(plan, poison=None)
        case 8:
            return _calmed(plan, poison=0)
        case _:
            return plan


def _calmed(plan: Plan, *, poison: int | None) -> Plan:
    """The same clients, and a fleet that nothing befalls; hints may still be lost.

    Args:
        plan: an eventful one.
        poison: the superstep of the first message that kills whoever runs it.
    """
    calm = [
        replace(message, kwargs={**message.kwargs, "poison": None, "fails": None})
        for message in plan.messages
    ]
    first = replace(calm[0], kwargs={**calm[0].kwargs, "poison": poison})
    return replace(
        plan,
        quiet=poison is None,
        poisoned=poison is not None,
        messages=[first, *calm[1:]],
        updates=[replace(update, dies=False) for update in plan.updates],
        faults=[],
        rules=replace(plan.rules, point_chance=0.0),
        wire=WireRules(quick_seconds=plan.wire.quick_seconds),
        locked_chance=0.0,
    )


def _eventful(seed: int) -> Plan:
    """A schedule with faults.

    Kinds of faults are switched on one by one: a way of failing that needs the quiet of
    another one would else never be met.
    """
    chance = Random(seed)
    threads = chance.randint(1, 3)
    processes = chance.choice([2, 2, 3])
    return Plan(
        seed=seed,
        threads=threads,
        processes=processes,
        messages=[_message(chance, threads) for _ in range(chance.randint(2, 5))],
        updates=[
            Update(
                chance.random() * FAULTS_SECONDS,
                chance.randrange(threads),
                chance.random() < 0.5,
            )
            for _ in range(chance.choice([0, 0, 1]))
        ],
        faults=[
            _fault(chance, processes) for _ in range(chance.randint(1, 5) * _on(chance))
        ],
        rules=_rules(chance),
        wire=_wire(chance),
        bus=BusRules(
            lost_chance=chance.choice([0.3, 0.9]) * _on(chance),
            doubled_chance=0.2 * _on(chance),
            late_seconds=chance.choice([0.01, 0.5]),
        ),
        locked_chance=0.1 * _on(chance),
    )


def _on(chance: Random) -> bool:
    return chance.random() < 0.6


def _wire(chance: Random) -> WireRules:
    return WireRules(
        quick_seconds=chance.choice([0.01, 0.1]),
        slow_chance=0.05 * _on(chance),
        slow_seconds=1.5 * LEASE_SECONDS,
        lost_chance=0.03 * _on(chance),
        unanswered_chance=0.06 * _on(chance),
        notice_seconds=LEASE_SECONDS / 3,
    )


def _rules(chance: Random) -> ProcessRules:
    return ProcessRules(
        times=LeaseTimes(
            lease_seconds=LEASE_SECONDS, renew_seconds=0.8, margin_seconds=0.3
        ),
        worker=WorkerRules(
            slots=chance.randint(1, 3),
            poll_seconds=1.5,
            retry_seconds=0.2,
            grace_seconds=chance.choice([0.3, 3.0]),
            desk=DeskRules(
                tasks_at_once=chance.randint(1, 3),
                tasks_max=chance.choice([2, 10]),
                slice_seconds=0.3,
            ),
        ),
        activate=ActivateRules(
            per_superstep=chance.random() < 0.5,
            run_seconds=1.0 if chance.random() < 0.1 else 1000.0,
            attempts_max=ATTEMPTS_MAX,
            retry_seconds=0.2,
            shun_seconds=0.4,
        ),
        sweep=SweepRules(
            sweep_seconds=1.4,
            presence_seconds=0.8,
            free_seconds=0.4,
            lease_seconds=LEASE_SECONDS,
            settle_seconds=LEASE_SECONDS,
            backoff_seconds=0.1,
            attempts_max=ATTEMPTS_MAX,
            timer_hold_seconds=1.0,
            batch=50,
        ),
        limits=EntryLimits(stop_seconds=0.5),
        point_chance=0.1 * _on(chance),
    )


def _message(chance: Random, threads: int) -> Message:
    steps = chance.randint(1, 3)
    longest = chance.choice([0.02, 0.4, 1.5])
    rejects = chance.random() < 0.1
    spread = chance.choice([0.0, 0.3, 0.8])
    return Message(
        at=chance.random() * FAULTS_SECONDS * 0.7,
        thread=chance.randrange(threads),
        kwargs=script_of(
            [
                [chance.random() * longest for _ in range(_width(chance, spread))]
                for _ in range(steps)
            ],
            eager=chance.random() < 0.3,
            gpu=chance.random() < 0.2,
            at_once=chance.randint(1, 3) if chance.random() < 0.2 else None,
            fails=chance.randrange(steps) if chance.random() < 0.05 else None,
            poison=chance.randrange(steps) if chance.random() < 0.03 else None,
        ),
        strategy=MultitaskStrategy.REJECT if rejects else MultitaskStrategy.ENQUEUE,
        after_seconds=chance.random() * 2 if chance.random() < 0.25 else 0.0,
        cancel_after=chance.random() * 2 if chance.random() < 0.2 else None,
    )


def _width(chance: Random, spread: float) -> int:
    return chance.randint(2, 4) if chance.random() < spread else 1


def _fault(chance: Random, processes: int) -> Fault:
    kind = chance.choice(
        [
            *("kill", "kill", "freeze", "freeze", "block"),
            *("drain", "session", "outage", "restart"),
        ]
    )
    seconds = {
        "kill": chance.random(),
        "drain": chance.random(),
        "outage": chance.random() * 1.5,
        "restart": chance.random() * 0.3,
    }.get(kind, chance.uniform(0.3, 2.2) * LEASE_SECONDS)
    return Fault(
        chance.random() * FAULTS_SECONDS, kind, chance.randrange(processes), seconds
    )
