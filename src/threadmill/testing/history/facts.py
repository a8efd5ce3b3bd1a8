"""What is known about a deployment, as frozen values: the rules judge nothing else.

One half is what clients, nodes and the injector of faults have logged, the other half
is what the database holds of the threads that they name. Ids are text throughout, as
they stand in logs and URLs. Times are seconds of whatever clock the logs were written
by; only times of one writer are compared, unless a rule says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TypeVar

#: A thread belongs to a tenant: two tenants may have the same thread id.
ThreadKey = tuple[str, str]

#: The status of runs that will end; the others have ended.
OPEN = frozenset({"pending", "running"})


class Outcome(StrEnum):
    """What a client knows of its message."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message that a client asked for; several tries under one key are one.

    Args:
        id: how the message is found in the state.
        by: the process that logged it.
        run: the run that the client was told; None without an answer.
        key: its idempotency key, if it has one.
        ended_at: when the last answer came; None without one.
    """

    id: str
    tenant: str
    thread: str
    by: str
    invoked_at: float
    outcome: Outcome = Outcome.UNKNOWN
    run: str | None = None
    key: str | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A client's look at a thread's state.

    Args:
        messages: what the channel held, in order; None if that was not logged.
        checkpoint: the checkpoint that was shown; None if that was not logged.
    """

    tenant: str
    thread: str
    by: str
    began_at: float
    ended_at: float
    messages: tuple[str, ...] | None = None
    checkpoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A client that follows one run's stream, coming back after each broken connection.

    Args:
        id: its name in the log.
        seen: the ids of all events, in the order in which they came.
        seen_at: when each of them came.
        events: the names that it asked for, without what follows a "|"; None for all.
        whole: whether it began with the run and saw its end.
        ended_at: when it saw the end; None if it did not.
    """

    id: str
    tenant: str
    thread: str
    run: str
    seen: tuple[str, ...] = ()
    seen_at: tuple[float, ...] = ()
    events: frozenset[str] | None = None
    whole: bool = False
    ended_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A node has begun, as logged by the node itself.

    Args:
        task: what is the same in every attempt, such as LangGraph's task id.
        pid: the process.
    """

    thread: str
    run: str
    task: str
    node: str
    pid: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that was done to the deployment on purpose.

    Args:
        until: when its effect was over at the latest.
        pid: the process that it befell; None for all.
        thread: the thread that it befell; None for all.
    """

    kind: str
    at: float
    until: float
    pid: int | None = None
    thread: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A window: the database has gone back, and what it said in it may be gone.

    So it is when an asynchronous standby becomes the primary. What was acknowledged
    before the window or after it must be there.

    Args:
        at: everything that was acknowledged until then has survived.
        until: the database that went away had told its last by then, and the one that
            came instead had not begun.
    """

    at: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run's row.

    Args:
        forks: whether it was asked to begin at an older checkpoint.
        scheduled: whether it is to begin in the future only.
        begun: whether any worker ever had it; otherwise it has no events.
        dead_letter: whether a dead letter tells of it.
    """

    id: str
    seq: int
    status: str
    forks: bool = False
    scheduled: bool = False
    begun: bool = True
    dead_letter: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint of the root namespace.

    Args:
        source: LangGraph's word for why it was made.
        token: of the claim that wrote it; None for a writer without one.
    """

    id: str
    parent: str | None
    ordinal: int
    run: str | None = None
    token: int | None = None
    source: str = "loop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """That a task has a committed result.

    Args:
        path: LangGraph's path of the task, which no other task of its checkpoint has.
        runs: those that wrote it: more than one, when a later one answered it.
    """

    ns: str
    checkpoint: str
    task: str
    path: str
    runs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of a thread's stream.

    Args:
        ms: the first part of its id, before its number; None if that is not known.
    """

    seq: int
    run: str
    name: str
    ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A row that must be gone once the run that it belongs to has ended.

    Args:
        kind: activation or superstep.
        what: what a reader needs to find it.
    """

    kind: str
    run: str | None
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """All that the database holds of one thread.

    Args:
        exists: whether it has a row.
        head: the root's current checkpoint.
        last_event: the number that the stream has given out last.
        state: the messages in the final state, in order; None if the channel holds
            none that could be read.
        results: items of the channel where nodes leave their marks.
        claimed: runs by idempotency key, for the keys that the log names.
    """

    tenant: str
    id: str
    exists: bool = True
    status: str = "idle"
    holder: str | None = None
    head: str | None = None
    last_event: int = 0
    runs: tuple[Run, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    committed: tuple[Result, ...] = ()
    events: tuple[Event, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    state: tuple[str, ...] | None = None
    results: tuple[str, ...] = ()
    claimed: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> ThreadKey:
        """Whose thread it is, and its id."""
        return self.tenant, self.id


@dataclass(frozen=True)
class History:
    """Everything that the rules look at.

    Args:
        clock_skew_seconds: how far the clocks of those who logged may be apart.
    """

    messages: Sequence[Message] = ()
    reads: Sequence[Read] = ()
    readers: Sequence[Reader] = ()
    executions: Sequence[Execution] = ()
    faults: Sequence[Fault] = ()
    losses: Sequence[Loss] = ()
    threads: Sequence[Thread] = ()
    clock_skew_seconds: float = 0.0

    @cached_property
    def by_key(self) -> Mapping[ThreadKey, Thread]:
        """The threads, to be found."""
        return {thread.key: thread for thread in self.threads}

    @cached_property
    def messages_of(self) -> Mapping[ThreadKey, Sequence[Message]]:
        """The messages of each thread, in the order of the log."""
        return _grouped(self.messages)

    @cached_property
    def reads_of(self) -> Mapping[ThreadKey, Sequence[Read]]:
        """The reads of each thread, in the order of the log."""
        return _grouped(self.reads)

    def run_of(self, message: Message) -> Run | None:
        """The run that the message became, as far as that can be told."""
        thread = self.by_key.get((message.tenant, message.thread))
        if thread is None:
            return None
        wanted = message.run or thread.claimed.get(message.key or "")
        return self._runs.get((*thread.key, wanted or ""))

    def windows(self, began_at: float, ended_at: float | None = None) -> Sequence[Loss]:
        """The windows of loss that this instant, or this time, has a part in."""
        skew = self.clock_skew_seconds
        last = began_at if ended_at is None else ended_at
        return [
            loss
            for loss in self.losses
            if began_at <= loss.until + skew and last >= loss.at - skew
        ]

    def is_lost(self, message: Message) -> bool:
        """Whether it was acknowledged in a window of loss, and its run is gone."""
        return (
            message.outcome is Outcome.OK
            and message.ended_at is not None
            and bool(self.windows(message.ended_at))
            and self.run_of(message) is None
        )

    @cached_property
    def _runs(self) -> Mapping[tuple[str, str, str], Run]:
        return {(*t.key, run.id): run for t in self.threads for run in t.runs}


_F = TypeVar("_F", Message, Read)


def _grouped(facts: Sequence[_F]) -> Mapping[ThreadKey, Sequence[_F]]:
    groups: dict[ThreadKey, list[_F]] = {}
    for fact in facts:
        groups.setdefault((fact.tenant, fact.thread), []).append(fact)
    return groups
