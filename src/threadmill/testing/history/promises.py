"""Rules about what clients were promised: I1, I2, I6, I9 and I10.

They compare what clients logged with the final state and with the rows of runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from threadmill.testing.history.facts import (
    OPEN,
    History,
    Message,
    Outcome,
    Read,
    Thread,
)
from threadmill.testing.history.verdict import Finding, Invariant, Violation

# What runs write goes where they are.
_STORED_WITH_RUNS = frozenset({"checkpoint", "result"})


def applied_once(history: History) -> Finding:
    """I1: acknowledged ones exactly once, unknown ones at most once, failed ones never.

    A message whose run visibly ended otherwise than with success counts like an
    unknown one: its input may have been stored before its graph failed. One that was
    acknowledged in a window of loss and whose run is gone is gone as well: a run is
    stored before anything that it writes.
    """
    violations = []
    for key, messages in history.messages_of.items():
        thread = history.by_key.get(key)
        applied = Counter(thread.state or () if thread else ())
        for message in messages:
            least, most = _allowed(history, message)
            if not least <= applied[message.id] <= most:
                violations.append(
                    Violation(
                        Invariant.APPLIED_ONCE,
                        message.thread,
                        f"message {message.id!r} ({_known(history, message)}) is in "
                        f"the final state {applied[message.id]} times, not "
                        f"{most if least == most else f'{least} to {most}'}",
                    )
                )
    return Finding(Invariant.APPLIED_ONCE, len(history.messages), violations)


def _allowed(history: History, message: Message) -> tuple[int, int]:
    if message.outcome is Outcome.FAIL:
        return 0, 0
    run = history.run_of(message)
    if run is None:
        if history.is_lost(message):
            return 0, 0
        return (1, 1) if message.outcome is Outcome.OK else (0, 1)
    return (1, 1) if run.status == "success" else (0, 1)


def _known(history: History, message: Message) -> str:
    run = history.run_of(message)
    end = "no run of it is known" if run is None else f"run {run.id}: {run.status}"
    return f"{message.outcome}, {end}"


def in_order(history: History) -> Finding:
    """I2: the state has messages in the order of acceptance, which is the clients'."""
    facts, violations = 0, []
    for key, messages in history.messages_of.items():
        thread = history.by_key.get(key)
        found = {m.id: run.seq for m in messages if (run := history.run_of(m))}
        applied = (
            [(found[m], m) for m in (thread.state or ()) if m in found]
            if (thread)
            else []
        )
        facts += len(applied)
        violations += [
            Violation(
                Invariant.IN_ORDER,
                key[1],
                f"message {later!r}, accepted as number {seq_later}, stands in the "
                f"state after {earlier!r}, accepted as number {seq_earlier}",
            )
            for (seq_earlier, earlier), (seq_later, later) in pairwise(applied)
            if seq_later < seq_earlier
        ]
        violations += _against_clients(messages, found)
    return Finding(Invariant.IN_ORDER, facts, violations)


def _against_clients(
    messages: Sequence[Message], seqs: Mapping[str, int]
) -> Iterator[Violation]:
    """Who was answered before another one asked was accepted before it.

    Only of one client: clocks of two are not compared.
    """
    clients: defaultdict[str, list[Message]] = defaultdict(list)
    for message in messages:
        if message.id in seqs:
            clients[message.by].append(message)
    for sent in clients.values():
        first: Message | None = None
        for message in sorted(sent, key=lambda m: seqs[m.id], reverse=True):
            if (
                first is not None
                and first.ended_at is not None
                and first.ended_at < message.invoked_at
                and seqs[first.id] > seqs[message.id]
            ):
                yield Violation(
                    Invariant.IN_ORDER,
                    message.thread,
                    f"message {first.id!r} was acknowledged before {message.id!r} was "
                    f"sent, and accepted after it ({seqs[first.id]} > "
                    f"{seqs[message.id]})",
                )
            if message.ended_at is not None and (
                first is None or message.ended_at < (first.ended_at or 0)
            ):
                first = message


def reads_monotonic(history: History) -> Finding:
    """I6: what a client has read is part of all that it reads later, and of the end.

    Checkpoints that were read never go back; messages only become more. Reads at the
    same time are not compared. What was read in a window of loss is compared with what
    was read until its end only.
    """
    violations: list[Violation] = []
    for key, reads in history.reads_of.items():
        thread = history.by_key.get(key)
        stays = [read for read in reads if not _may_be_unread(history, read)]
        if thread is not None:
            violations += _against_end(stays, thread)
        clients: defaultdict[str, list[Read]] = defaultdict(list)
        for read in reads:
            clients[read.by].append(read)
        ordinals = {c.id: c.ordinal for c in thread.checkpoints} if thread else {}
        for mine in clients.values():
            # Each once: a pair of reads may be compared for several windows.
            violations += dict.fromkeys(
                violation
                for comparable in _comparable(history, mine)
                for violation in _never_back(comparable, ordinals)
            )
    return Finding(Invariant.READS_MONOTONIC, len(history.reads), violations)


def _may_be_unread(history: History, read: Read) -> bool:
    return bool(history.windows(read.began_at, read.ended_at))


def _comparable(history: History, reads: Sequence[Read]) -> Iterator[Sequence[Read]]:
    """Reads that must agree: all that stay; and for each window, until its end.

    Who asked before its end and was answered after it may have seen either database.
    """
    skew = history.clock_skew_seconds
    windows = [(read, history.windows(read.began_at, read.ended_at)) for read in reads]
    yield [read for read, inside in windows if not inside]
    for loss in history.losses:
        yield [
            read
            for read, inside in windows
            if (loss in inside and read.ended_at <= loss.until - skew)
            or (not inside and read.ended_at < loss.at)
        ]


def _against_end(reads: Sequence[Read], thread: Thread) -> Iterator[Violation]:
    end = thread.state or ()
    for read in reads:
        seen = read.messages or ()
        if seen != end[: len(seen)]:
            yield Violation(
                Invariant.READS_MONOTONIC,
                thread.id,
                f"a client read {_tail(seen)}, which is not how the final state "
                f"begins: {_tail(end[: len(seen)])}",
            )


def _never_back(
    reads: Sequence[Read], ordinals: Mapping[str, int]
) -> Iterator[Violation]:
    ended = sorted(reads, key=lambda read: read.ended_at)
    ends = [read.ended_at for read in ended]
    longest: list[Read] = []
    furthest: list[Read] = []
    for read in ended:
        longest.append(max([*longest[-1:], read], key=_length))
        furthest.append(
            max(
                [*furthest[-1:], read],
                key=lambda r: ordinals.get(r.checkpoint or "", 0),
            )
        )
    for read in ended:
        before = bisect_right(ends, read.began_at) - 1
        if before < 0:
            continue
        earlier = longest[before].messages
        if (
            read.messages is not None
            and earlier is not None
            and read.messages[: len(earlier)] != earlier
        ):
            yield Violation(
                Invariant.READS_MONOTONIC,
                read.thread,
                f"a client read {_tail(earlier)}, and later {_tail(read.messages)}",
            )
            continue
        there = furthest[before].checkpoint or ""
        here = read.checkpoint or ""
        if here in ordinals and ordinals[here] < ordinals.get(there, 0):
            yield Violation(
                Invariant.READS_MONOTONIC,
                read.thread,
                f"a client read checkpoint {there} and later {here}, an earlier one",
            )


def _length(read: Read) -> int:
    return len(read.messages or ())


def _tail(messages: Sequence[str]) -> str:
    shown = ", ".join(map(repr, messages[-3:]))
    return f"[{'..., ' if len(messages) > 3 else ''}{shown}] ({len(messages)})"


def balanced(history: History) -> Finding:
    """I9: each message was applied, or is visibly dead, or was rejected; none besides.

    Runs that nobody asked for are told by their number: a run may belong to a message
    whose client never learned of it. A run that is lost has left nothing behind.
    """
    violations: list[Violation] = []
    for key, messages in history.messages_of.items():
        thread = history.by_key.get(key)
        runs = {run.id: run for run in thread.runs} if thread else {}
        state = set(thread.state or ()) if thread else set()
        violations += [
            Violation(Invariant.BALANCED, key[1], wrong)
            for message in messages
            if (wrong := _unaccounted(history, message, state))
        ]
        violations += _left_by_lost(history, messages, thread)
        told = {message.run for message in messages if message.run in runs}
        unknown = sum(message.outcome is Outcome.UNKNOWN for message in messages)
        if len(runs) - len(told) > unknown:
            violations.append(
                Violation(
                    Invariant.BALANCED,
                    key[1],
                    f"it has {len(runs)} runs, but clients were told of {len(told)} "
                    f"and only {unknown} of their messages are unknown; nobody's is "
                    f"{next(run for run in runs if run not in told)}",
                )
            )
    return Finding(Invariant.BALANCED, len(history.messages), violations)


def _unaccounted(history: History, message: Message, state: set[str]) -> str | None:
    run = history.run_of(message)
    match message.outcome:
        case Outcome.OK if run is None and not history.is_lost(message):
            return f"accepted message {message.id!r} has no run {message.run}"
        case Outcome.FAIL if run is not None:
            return f"message {message.id!r} was rejected and became run {run.id}"
        case Outcome.UNKNOWN if run is None:
            return None
    if run is None or run.status in OPEN:
        return None
    if run.status == "success" and message.id not in state:
        return (
            f"message {message.id!r} is neither applied nor dead: run {run.id} ended "
            "with success and left it out"
        )
    return None


def _left_by_lost(
    history: History, messages: Sequence[Message], thread: Thread | None
) -> Iterator[Violation]:
    """Checkpoints and results of runs that are gone: they were stored after these."""
    lost = {message.run for message in messages if history.is_lost(message)}
    traces = _traces_of_runs(thread) if thread and lost else ()
    for kind, run in dict.fromkeys(traces):
        # Events may be kept elsewhere than runs, and have stayed there.
        if run in lost and kind in _STORED_WITH_RUNS:
            yield Violation(
                Invariant.BALANCED,
                messages[0].thread,
                f"run {run} is gone, and has left a {kind} behind",
            )


def tenants_apart(history: History) -> Finding:
    """I10: a run and whatever it wrote are found under the tenant that asked."""
    owners: dict[str, Message] = {m.run: m for m in history.messages if m.run}
    facts, violations = 0, []
    for thread in history.threads:
        for kind, run in _traces_of_runs(thread):
            facts += 1
            owner = owners.get(run)
            if owner is not None and owner.tenant != thread.tenant:
                violations.append(
                    Violation(
                        Invariant.TENANTS_APART,
                        thread.id,
                        f"tenant {thread.tenant!r} has a {kind} of run {run}, which "
                        f"tenant {owner.tenant!r} asked for",
                    )
                )
    return Finding(Invariant.TENANTS_APART, facts, violations)


def _traces_of_runs(thread: Thread) -> Iterator[tuple[str, str]]:
    yield from (("run", run.id) for run in thread.runs)
    yield from (("checkpoint", c.run) for c in thread.checkpoints if c.run)
    yield from (("event", event.run) for event in thread.events)
    for result in thread.committed:
        yield from (("result", run) for run in result.runs)
