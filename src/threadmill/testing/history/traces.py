"""Rules about the traces that work leaves behind: I3, I4, I5, I7 and I8."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from threadmill.testing.history.facts import (
    OPEN,
    Event,
    Execution,
    Fault,
    History,
    Reader,
    Thread,
)
from threadmill.testing.history.verdict import Finding, Invariant, Violation

# LangGraph's words for checkpoints that a user made, wherever the user wanted them.
_BY_USERS = frozenset({"fork", "update"})


def one_path(history: History) -> Finding:
    """I3: each checkpoint's parent is the one before it, but where a user forked.

    And the head is the last of them.
    """
    facts, violations = 0, []
    for thread in history.threads:
        facts += len(thread.checkpoints)
        violations += [
            Violation(Invariant.ONE_PATH, thread.id, wrong)
            for wrong in _off_the_path(thread)
        ]
    return Finding(Invariant.ONE_PATH, facts, violations)


def _off_the_path(thread: Thread) -> Iterator[str]:
    forks = {run.id for run in thread.runs if run.forks}
    begun: set[str] = set()
    path = sorted(thread.checkpoints, key=lambda c: c.ordinal)
    for before, c in pairwise(path):
        may_fork = c.source in _BY_USERS or (c.run in forks and c.run not in begun)
        begun |= {c.run} if c.run else set()
        if c.parent != before.id and not may_fork:
            yield (
                f"checkpoint {c.id} (ordinal {c.ordinal}, run {c.run}) has the parent "
                f"{c.parent}, but was committed after {before.id}: a fork of nobody's"
            )
    if path and thread.head != path[-1].id:
        yield f"the head is {thread.head}, the last checkpoint is {path[-1].id}"


def tokens_rise(history: History) -> Finding:
    """I4: a later checkpoint was never written under a lower token."""
    facts, violations = 0, []
    for thread in history.threads:
        ordered = sorted(thread.checkpoints, key=lambda c: c.ordinal)
        fenced = [(c.token, c) for c in ordered if c.token is not None]
        facts += len(fenced)
        violations += [
            Violation(
                Invariant.TOKENS_RISE,
                thread.id,
                f"checkpoint {here.id} was written under token {token}, after "
                f"{there.id} under token {above}: a stale worker's",
            )
            for (above, there), (token, here) in pairwise(fenced)
            if token < above
        ]
    return Finding(Invariant.TOKENS_RISE, facts, violations)


def one_result(history: History) -> Finding:
    """I5: one committed result per task; repeated only after a fault.

    A task that has begun more than once needs, for each repetition, a fault between
    the two beginnings that befell one of their processes, its thread, or everything;
    or the end of a window in which its result may have been lost. It was not lost if
    its run had got beyond it before the window.
    """
    violations: list[Violation] = []
    facts = len(history.executions)
    for thread in history.threads:
        facts += len(thread.committed) + len(thread.results)
        violations += [
            Violation(Invariant.ONE_RESULT, thread.id, wrong)
            for wrong in _doubled(thread)
        ]
    tasks: defaultdict[tuple[str, str], list[Execution]] = defaultdict(list)
    for execution in history.executions:
        tasks[execution.run, execution.task].append(execution)
    progress = _progress(history) if history.losses else {}
    for (run, task), begun in tasks.items():
        violations += _unprovoked(begun, history, _beyond(progress.get(run, ()), task))
    return Finding(Invariant.ONE_RESULT, facts, violations)


def _doubled(thread: Thread) -> Iterator[str]:
    tasks: dict[tuple[str, str, str], str] = {}
    for result in thread.committed:
        place = result.ns, result.checkpoint, result.path
        other = tasks.setdefault(place, result.task)
        if other != result.task and result.path:
            yield (
                f"tasks {other} and {result.task} both have a result for {result.path} "
                f"of checkpoint {result.checkpoint}"
            )
    for mark, times in Counter(thread.results).items():
        if times > 1:
            yield f"the result {mark!r} was applied {times} times"


@dataclass(frozen=True, slots=True)
class _Step:
    """That a run was at a checkpoint, which is still there.

    Args:
        task: the task that began there; None for a look at the checkpoint.
        ordinal: the checkpoint's.
    """

    at: float
    ordinal: int
    task: str | None = None


def _progress(history: History) -> Mapping[str, Sequence[_Step]]:
    """How far each run had got, and when, as far as the database can tell.

    A task is known to belong to a checkpoint by its result. Both names are made anew
    where a checkpoint is lost: what is found here was never lost.
    """
    steps: defaultdict[str, list[_Step]] = defaultdict(list)
    for thread in history.threads:
        root = {c.id: c for c in thread.checkpoints}
        for read in history.reads_of.get(thread.key, ()):
            seen = root.get(read.checkpoint or "")
            if seen is not None and seen.run is not None:
                steps[seen.run].append(_Step(read.ended_at, seen.ordinal))
    places = {
        (thread.id, result.task): c.ordinal
        for thread in history.threads
        for root in [{c.id: c for c in thread.checkpoints}]
        for result in thread.committed
        if (c := root.get(result.checkpoint)) and not result.ns
    }
    for begun in history.executions:
        ordinal = places.get((begun.thread, begun.task))
        if ordinal is not None:
            steps[begun.run].append(_Step(begun.at, ordinal, begun.task))
    return steps


def _beyond(steps: Sequence[_Step], task: str) -> float | None:
    """When its run was first seen beyond a task; None if that cannot be told.

    A node begins, and a checkpoint is shown, only when what it builds on is stored.
    """
    mine = {step.ordinal for step in steps if step.task == task}
    later = [step.at for step in steps if mine and step.ordinal > max(mine)]
    return min(later, default=None)


def _unprovoked(
    begun: Sequence[Execution], history: History, beyond: float | None
) -> Iterator[Violation]:
    skew = history.clock_skew_seconds
    for one, two in pairwise(sorted(begun, key=lambda e: e.at)):
        if any(_provokes(fault, one, two, skew) for fault in history.faults):
            continue
        if any(
            one.at <= loss.until + skew
            and two.at >= loss.until - skew
            and (beyond is None or beyond >= loss.at - skew)
            for loss in history.losses
        ):
            continue
        yield Violation(
            Invariant.ONE_RESULT,
            one.thread,
            f"task {one.task} (node {one.node!r}) of run {one.run} began in process "
            f"{one.pid} at {one.at:.3f} and again in {two.pid} at {two.at:.3f}, and "
            "no fault befell either in between",
        )


def _provokes(fault: Fault, one: Execution, two: Execution, skew: float) -> bool:
    return (
        fault.at <= two.at + skew
        and fault.until >= one.at - skew
        and fault.pid in {None, one.pid, two.pid}
        and fault.thread in {None, one.thread}
    )


def streams_whole(history: History) -> Finding:
    """I7: numbers of events have no gap, and readers saw each of theirs once, in order.

    A thread's log is judged where its runs still have their events; they expire some
    time after a run's end. Where what a reader was told in a window of loss is gone,
    it may have missed the events that have these numbers now.
    """
    violations: list[Violation] = []
    facts = sum(len(thread.events) for thread in history.threads)
    for thread in history.threads:
        violations += [
            Violation(Invariant.STREAMS_WHOLE, thread.id, wrong)
            for wrong in _gaps(thread)
        ]
    for reader in history.readers:
        facts += len(reader.seen)
        read = history.by_key.get((reader.tenant, reader.thread))
        violations += [
            Violation(Invariant.STREAMS_WHOLE, reader.thread, wrong)
            for wrong in _misread(reader, read, history)
        ]
    return Finding(Invariant.STREAMS_WHOLE, facts, violations)


def _gaps(thread: Thread) -> Iterator[str]:
    begun = {run.id for run in thread.runs if run.begun}
    expired = begun - {event.run for event in thread.events}
    ordered = sorted(thread.events, key=lambda event: event.seq)
    for one, two in pairwise(ordered):
        if two.seq != one.seq + 1 and (one.run == two.run or not expired):
            yield f"event {two.seq} of run {two.run} comes after event {one.seq}"
    if ordered and not expired:
        if ordered[0].seq != 1:
            yield f"its first event is {ordered[0].seq}"
        if ordered[-1].seq != thread.last_event:
            yield (
                f"its last event is {ordered[-1].seq}, and number {thread.last_event} "
                "was given out"
            )


def _misread(reader: Reader, thread: Thread | None, history: History) -> Iterator[str]:
    seqs = [int(id_.rpartition("-")[2]) for id_ in reader.seen]
    for one, two in pairwise(seqs):
        if two <= one:
            yield f"reader {reader.id} was told event {two} after event {one}"
            return
    told = set(seqs)
    first = 0 if reader.whole else min(told, default=0)
    stays = reader.ended_at is None or not history.windows(reader.ended_at)
    last = None if reader.whole and stays else max(told, default=0)
    stayed, gone = _missed(reader, thread, history)
    for event in thread.events if thread else ():
        within = event.seq >= first and (last is None or event.seq <= last)
        if stayed < event.seq <= gone:
            continue
        if _is_for(reader, event) and within and event.seq not in told:
            yield (
                f"reader {reader.id} of run {reader.run} was not told event "
                f"{event.seq} ({event.name})"
            )
            return


def _is_for(reader: Reader, event: Event) -> bool:
    asked = reader.events is None or event.name.split("|")[0] in reader.events
    return event.run == reader.run and asked


def _missed(reader: Reader, thread: Thread | None, history: History) -> tuple[int, int]:
    """After which number, and to which one, events may have come that it was not told.

    The reader goes on after the last event that it was told, also where that is gone
    with the window. Since then others have the numbers of what is gone, from somewhere
    after the last one that has stayed.
    """
    events = thread.events if thread else ()
    there = {event.seq: event.ms for event in events if _is_for(reader, event)}
    stayed = 0
    gone: list[int] = []
    for id_, at in zip(reader.seen, reader.seen_at, strict=False):
        ms, _, number = id_.rpartition("-")
        seq = int(number)
        same = seq in there and (there[seq] is None or str(there[seq]) == ms)
        if history.windows(at) and not same:
            gone.append(seq)
        elif not gone:
            stayed = seq
    return stayed, max(gone, default=0)


def all_ended(history: History) -> Finding:
    """I8: no run is open, and no activation, superstep or holder is left."""
    facts, violations = 0, []
    for thread in history.threads:
        facts += len(thread.runs) + len(thread.leftovers) + 1
        violations += [
            Violation(Invariant.ALL_ENDED, thread.id, wrong)
            for wrong in _unfinished(thread)
        ]
    return Finding(Invariant.ALL_ENDED, facts, violations)


def _unfinished(thread: Thread) -> Iterator[str]:
    scheduled = {run.id for run in thread.runs if run.scheduled}
    open_runs = [run for run in thread.runs if run.status in OPEN and not run.scheduled]
    for run in open_runs:
        yield f"run {run.id} has not ended: it is {run.status}"
    for leftover in thread.leftovers:
        if leftover.run not in scheduled:
            yield f"{leftover.kind} left behind: {leftover.what}"
    if not scheduled and not open_runs:
        if thread.holder is not None:
            yield f"it is held by {thread.holder}, which is not at work"
        if thread.status == "busy":
            yield "it is busy, and no run is open"
