"""Port of recorded effects: what a task has done outside, so that it is done once.

A record goes from `intent` (the call may have happened) to `done` (with its outcome) or
`void` (it has not happened). Each method is one transaction that first locks the
claimed activation by its token, and each may be repeated: after a connection that was
lost in mid-commit, the same call again leads to the same record.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from threadmill.domain.fence import Fence


class EffectState(StrEnum):
    """What is known of an effect."""

    INTENT = "intent"
    DONE = "done"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class EffectCall:
    """One call of an effect's function, that is about to happen.

    Args:
        task: the task's id, the same in every attempt.
        key: the effect's name within the task.
        call_id: tells a repeated transaction of this call from another call.
        under: checkpoints that the task's id is made of, as (namespace, id).
    """

    task: str
    key: str
    call_id: UUID
    under: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call has returned, serialized."""

    type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class FoundEffect:
    """The record as a call finds it.

    Args:
        is_mine: this call made it an intent; nobody may have called before.
        state: as it is now.
        answers: how many answers of a human the effect has used so far.
        since: when it came into this state, by the database's clock.
        outcome: of a `done` one.
    """

    is_mine: bool
    state: EffectState
    answers: int
    since: datetime
    outcome: Outcome | None = None


class Effects(Protocol):
    """Records effects under the fence of the task that has them."""

    async def begin(self, fence: Fence, call: EffectCall) -> FoundEffect:
        """Records the intent, unless there is a record already; returns which.

        Raises:
            LeaseLost: the fence does not hold; nothing was written.
            NotFound: a checkpoint that the task's id is made of is not stored.
            Unavailable: unknown whether it was written; the same call may be repeated.
        """
        ...

    async def again(self, fence: Fence, call: EffectCall, answers: int) -> None:
        """Makes another call's intent this call's own.

        Args:
            fence: the claim.
            call: this call.
            answers: how many answers of a human the effect has used now.

        Raises:
            LeaseLost, Unavailable: see `begin`.
        """
        ...

    async def done(self, fence: Fence, call: EffectCall, outcome: Outcome) -> None:
        """Records the outcome; nothing changes it any more.

        Raises:
            LeaseLost, Unavailable: see `begin`.
        """
        ...

    async def void(self, fence: Fence, call: EffectCall) -> None:
        """Records that this call's effect has not happened.

        Raises:
            LeaseLost, Unavailable: see `begin`.
        """
        ...


class SyncEffects(Protocol):
    """The same for threads that block until they have their answer."""

    def begin(self, fence: Fence, call: EffectCall) -> FoundEffect:
        """See `Effects.begin`."""
        ...

    def again(self, fence: Fence, call: EffectCall, answers: int) -> None:
        """See `Effects.again`."""
        ...

    def done(self, fence: Fence, call: EffectCall, outcome: Outcome) -> None:
        """See `Effects.done`."""
        ...

    def void(self, fence: Fence, call: EffectCall) -> None:
        """See `Effects.void`."""
        ...
