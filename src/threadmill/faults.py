"""Named points at which a process can be told to fail, for tests of what it promises.

A guarantee about crashes is worth what its narrowest window is worth, and random kills
rarely find that window. So the code names its windows: passing one,
``await faults.at("commit.after")``, does nothing unless THREADMILL_FAULTS names it::

    THREADMILL_FAULTS="commit.before=kill@3,finish.after=pause:2s@10%"

`kill` ends the process as SIGKILL does, `freeze` stops it as SIGSTOP does, `pause:2s`
waits two seconds (also `pause:50ms`). ``@3`` means the third time only, ``@10%`` by
chance, nothing means every time. Code that blocks passes its points by
``faults.at_blocking``; any thread may.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from threadmill.errors import BadSetting

_SIDES: Final = ("before", "after")
# Each in two places: before what it names, and after.
STEPS: Final = (
    "accept",  # a server stores a run
    "claim",  # a worker asks for work, or for more tasks of a superstep
    "load",  # an attempt begins: the run and its state are read
    "node",  # a node of the user's runs
    "put_writes",  # LangGraph hands over a task's result
    "put",  # LangGraph hands over a checkpoint
    "commit",  # what was handed over becomes durable
    "append",  # a commit that tells events
    "plan",  # a commit that spreads a superstep
    "join",  # a commit that ends tasks of one
    "finish",  # a run ends
    "release",  # an activation is handed back
    "notify",  # hints are published to everybody
    "publish",  # hints are published to the message broker
    "receive",  # a worker takes hints from it
    "ack",  # and tells it that they were acted on
    "renew",  # a process renews its leases and says that it lives
    "extend",  # within that: its leases are locked from here on until the commit
    "sweep",  # what the dead have left is taken back
    "timer",  # something due is carried out: a run that waited for its time, a deletion
    "effect",  # a step of an effect's record: intent, outcome, or another call
)
POINTS: Final = frozenset(f"{step}.{side}" for step in STEPS for side in _SIDES)
_ACTIONS: Final = frozenset({"kill", "freeze", "pause"})


@dataclass(slots=True)
class _Fault:
    action: str
    seconds: float = 0.0
    chance: float = 1.0
    only: int | None = None
    # Threads pass points too, and each passage counts once.
    passed: Iterator[int] = field(default_factory=lambda: count(1))

    def is_due(self) -> bool:
        if self.only is not None:
            return next(self.passed) == self.only
        return random.random() < self.chance  # noqa: S311 - no secret depends on it

    def strike(self) -> None:
        kill = signal.SIGKILL if self.action == "kill" else signal.SIGSTOP
        # To this thread, which so gets no further; it takes all the others with it.
        signal.pthread_kill(threading.get_ident(), kill)


class Faults:
    """The faults of one process; without a specification, none.

    Args:
        specification: THREADMILL_FAULTS.

    Raises:
        BadSetting: it does not parse, or names no point of this program.
    """

    def __init__(self, specification: str = "") -> None:
        self._faults = dict(
            _parse(part.strip()) for part in specification.split(",") if part.strip()
        )

    async def at(self, point: str) -> None:
        """Passes a point."""
        fault = self._due(point)
        if fault is None:
            return
        if fault.action == "pause":
            await asyncio.sleep(fault.seconds)
        else:
            fault.strike()

    def at_blocking(self, point: str) -> None:
        """Passes a point on a thread that blocks."""
        fault = self._due(point)
        if fault is None:
            return
        if fault.action == "pause":
            time.sleep(fault.seconds)
        else:
            fault.strike()

    def _due(self, point: str) -> _Fault | None:
        """The fault that happens at this passage of a point, if one does."""
        if not self._faults:
            return None
        fault = self._faults.get(point)
        return fault if fault is not None and fault.is_due() else None


def _parse(part: str) -> tuple[str, _Fault]:
    point, _, rest = part.partition("=")
    what, _, when = rest.partition("@")
    action, _, seconds = what.partition(":")
    if point not in POINTS or action not in _ACTIONS:
        msg = (
            f"THREADMILL_FAULTS: '{part}' is not point=action[:time][@n|@n%]; "
            f"points are {', '.join(sorted(POINTS))}; "
            f"actions are {', '.join(sorted(_ACTIONS))}"
        )
        raise BadSetting(msg)
    try:
        fault = _Fault(action, _seconds(seconds))
        if when.endswith("%"):
            fault.chance = float(when[:-1]) / 100
        elif when:
            fault.only = int(when)
    except ValueError:
        msg = f"THREADMILL_FAULTS: '{part}' has a number that is none"
        raise BadSetting(msg) from None
    return point, fault


def _seconds(time: str) -> float:
    if time.endswith("ms"):
        return float(time[:-2]) / 1000
    return float(time.removesuffix("s") or 0)
