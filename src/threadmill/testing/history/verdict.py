"""The invariants by name, and what it looks like when one is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Invariant(StrEnum):
    """What is promised; see docs/how-to/check-a-deployment.md."""

    APPLIED_ONCE = "I1"
    IN_ORDER = "I2"
    ONE_PATH = "I3"
    TOKENS_RISE = "I4"
    ONE_RESULT = "I5"
    READS_MONOTONIC = "I6"
    STREAMS_WHOLE = "I7"
    ALL_ENDED = "I8"
    BALANCED = "I9"
    TENANTS_APART = "I10"


PROMISES = {
    Invariant.APPLIED_ONCE: "an acknowledged message is in the state exactly once",
    Invariant.IN_ORDER: "messages are applied in the order of acceptance",
    Invariant.ONE_PATH: "the checkpoints of a thread form one path",
    Invariant.TOKENS_RISE: "tokens never fall along that path",
    Invariant.ONE_RESULT: "a task has one result, and is repeated after faults only",
    Invariant.READS_MONOTONIC: "what was read once is not unread later",
    Invariant.STREAMS_WHOLE: "a stream has no gap and no duplicate",
    Invariant.ALL_ENDED: "every run ends and leaves nothing behind",
    Invariant.BALANCED: "accepted = applied + dead + rejected",
    Invariant.TENANTS_APART: "what a run wrote belongs to its tenant",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A counterexample.

    Args:
        invariant: what is broken.
        thread: where.
        what: what was found, and what should have been, in words.
    """

    invariant: Invariant
    thread: str
    what: str

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.invariant} on thread {self.thread}: {self.what}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found.

    Args:
        facts: how many facts it looked at; 0 means that nothing was proven.
        violations: in the order in which the threads were read.
    """

    invariant: Invariant
    facts: int
    violations: Sequence[Violation]
