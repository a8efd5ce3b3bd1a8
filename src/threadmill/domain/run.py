"""The life of a run and of its thread, as one table each.

The SQL that carries a move out gets its allowed sources and its target from here, and
decides by the status that it finds. `transition` says what must come of it: a test
compares the two for every (status, event).

A graph's own interrupt ends its run with `success` and leaves the thread
`interrupted`; a run is `interrupted` when somebody cancelled it. That is how
LangGraph's clients read these words.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from threadmill.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Mapping


class RunStatus(StrEnum):
    """What clients see."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


class RunEvent(StrEnum):
    """What can happen to a run."""

    CLAIM = "claim"
    SUCCEED = "succeed"
    PAUSE = "pause"
    FAIL = "fail"
    EXPIRE = "expire"
    CANCEL = "cancel"
    REDRIVE = "redrive"


class ThreadStatus(StrEnum):
    """What clients see."""

    IDLE = "idle"
    BUSY = "busy"
    INTERRUPTED = "interrupted"
    ERROR = "error"


FAILED: Final = frozenset({RunStatus.ERROR, RunStatus.TIMEOUT})
TERMINAL: Final = frozenset(
    {
        RunStatus.SUCCESS,
        RunStatus.ERROR,
        RunStatus.TIMEOUT,
        RunStatus.INTERRUPTED,
    }
)

# A pending run can fail or expire: no worker may ever take it. Of the runs in error
# only a dead letter is redriven: the store asks for its row.
TRANSITIONS: Final[Mapping[tuple[RunStatus, RunEvent], RunStatus]] = MappingProxyType(
    {
        (RunStatus.PENDING, RunEvent.CLAIM): RunStatus.RUNNING,
        (RunStatus.RUNNING, RunEvent.CLAIM): RunStatus.RUNNING,
        (RunStatus.RUNNING, RunEvent.SUCCEED): RunStatus.SUCCESS,
        (RunStatus.RUNNING, RunEvent.PAUSE): RunStatus.SUCCESS,
        (RunStatus.PENDING, RunEvent.FAIL): RunStatus.ERROR,
        (RunStatus.RUNNING, RunEvent.FAIL): RunStatus.ERROR,
        (RunStatus.PENDING, RunEvent.EXPIRE): RunStatus.TIMEOUT,
        (RunStatus.RUNNING, RunEvent.EXPIRE): RunStatus.TIMEOUT,
        (RunStatus.PENDING, RunEvent.CANCEL): RunStatus.INTERRUPTED,
        (RunStatus.RUNNING, RunEvent.CANCEL): RunStatus.INTERRUPTED,
        (RunStatus.ERROR, RunEvent.REDRIVE): RunStatus.PENDING,
    }
)

# What a thread shows when the run that just ended was its last one.
_THREAD_AFTER: Final[Mapping[RunEvent, ThreadStatus]] = MappingProxyType(
    {
        RunEvent.SUCCEED: ThreadStatus.IDLE,
        RunEvent.PAUSE: ThreadStatus.INTERRUPTED,
        RunEvent.FAIL: ThreadStatus.ERROR,
        RunEvent.EXPIRE: ThreadStatus.ERROR,
        RunEvent.CANCEL: ThreadStatus.INTERRUPTED,
    }
)

ENDINGS: Final = tuple(_THREAD_AFTER)
"""The events that end a run."""


def transition(status: RunStatus, event: RunEvent) -> RunStatus:
    """The status after `event`.

    Raises:
        Conflict: the event cannot happen in this status.
    """
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        msg = f"a run that is {status} cannot {event}"
        raise Conflict(msg) from None


def sources(event: RunEvent) -> list[RunStatus]:
    """The statuses in which `event` can happen."""
    return [status for status, e in TRANSITIONS if e is event]


def target(event: RunEvent) -> RunStatus:
    """The status that `event` leads to; each event has exactly one."""
    (status,) = {to for (_, e), to in TRANSITIONS.items() if e is event}
    return status


def thread_after(event: RunEvent, *, more: bool) -> ThreadStatus:
    """A thread's status once a run ended by `event`.

    Args:
        event: how the run ended, one of `ENDINGS`.
        more: whether another run of the thread goes on or waits.
    """
    return ThreadStatus.BUSY if more else _THREAD_AFTER[event]
