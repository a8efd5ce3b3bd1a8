"""Named points at which a process can be told to fail, for tests of what it promises.

A guarantee about crashes is worth what its narrowest window is worth, and random kills
rarely find that window. So the code names its windows: passing one,
``await faults.at("commit.after")``, does nothing unless THREADMILL_FAULTS names it::

    THREADMILL_FAULTS="commit.before=kill@3,finish.after=pause:2@10%"

`kill` ends the process as SIGKILL does, `freeze` stops it as SIGSTOP does, `pause:S`
waits S seconds. ``@3`` means the third time only, ``@10%`` by chance, nothing means
every time.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass
from typing import Final

from threadmill.errors import BadSetting

POINTS: Final = frozenset(
    {
        "claim.before",
        "claim.after",
        "begin.after",
        "commit.before",
        "commit.after",
        "release.before",
        "finish.before",
        "finish.after",
        "accept.before",
        "accept.after",
    }
)
_ACTIONS: Final = frozenset({"kill", "freeze", "pause"})


@dataclass(slots=True)
class _Fault:
    action: str
    seconds: float = 0.0
    chance: float = 1.0
    only: int | None = None
    passed: int = 0

    def is_due(self) -> bool:
        self.passed += 1
        if self.only is not None:
            return self.passed == self.only
        return random.random() < self.chance  # noqa: S311 - no secret depends on it


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
        fault = self._faults.get(point)
        if fault is None or not fault.is_due():
            return
        if fault.action == "pause":
            await asyncio.sleep(fault.seconds)
        else:
            kill = signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP
            os.kill(os.getpid(), kill)


def _parse(part: str) -> tuple[str, _Fault]:
    point, _, rest = part.partition("=")
    what, _, when = rest.partition("@")
    action, _, seconds = what.partition(":")
    if point not in POINTS or action not in _ACTIONS:
        msg = (
            f"THREADMILL_FAULTS: '{part}' is not point=action[:seconds][@n|@n%]; "
            f"points are {', '.join(sorted(POINTS))}; "
            f"actions are {', '.join(sorted(_ACTIONS))}"
        )
        raise BadSetting(msg)
    try:
        fault = _Fault(action, float(seconds or 0))
        if when.endswith("%"):
            fault.chance = float(when[:-1]) / 100
        elif when:
            fault.only = int(when)
    except ValueError:
        msg = f"THREADMILL_FAULTS: '{part}' has a number that is none"
        raise BadSetting(msg) from None
    return point, fault
