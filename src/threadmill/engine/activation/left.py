"""How an entry into a graph ended, for whoever ends its run or hands it on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from threadmill.checkpoints.base import Commit
from threadmill.engine.activation.stop import StopReason


class Outcome(StrEnum):
    """How an entry ended."""

    DONE = "done"
    PAUSED = "paused"
    FAILED = "failed"
    HANDED_OVER = "handed_over"
    PARKED = "parked"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Left:
    """An entry's end.

    Args:
        outcome: how.
        error: what the graph raised, for FAILED.
        reason: why it was stopped, for STOPPED.
        rest: what is not written yet; to be committed with what follows.
        stays: what was handed over goes on here: nobody need be told.
    """

    outcome: Outcome
    error: BaseException | None = None
    reason: StopReason | None = None
    rest: Commit = field(default_factory=Commit)
    stays: bool = False
