"""Each rule finds the one thing that is wrong, and nothing in what is right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from threadmill.testing.history import History, Invariant, check, judge
from threadmill.testing.history.facts import (
    Checkpoint,
    Event,
    Execution,
    Fault,
    Leftover,
    Message,
    Outcome,
    Read,
    Reader,
    Result,
    Run,
    Thread,
)

TENANT, THREAD = "default", "t"


def message(id_: str, run: str | None, at: float, **changes: Any) -> Message:
    made = Message(
        id=id_,
        tenant=TENANT,
        thread=THREAD,
        by="client",
        invoked_at=at,
        outcome=Outcome.OK if run else Outcome.UNKNOWN,
        run=run,
        ended_at=at + 0.5 if run else None,
    )
    return replace(made, **changes)


def read(at: float, *messages: str, **changes: Any) -> Read:
    made = Read(
        tenant=TENANT,
        thread=THREAD,
        by="client",
        began_at=at,
        ended_at=at + 0.1,
        messages=messages,
    )
    return replace(made, **changes)


def begun(task: str, at: float, pid: int = 1) -> Execution:
    return Execution(thread=THREAD, run="r1", task=task, node="n", pid=pid, at=at)


def events(*seqs: int, run: str = "r1") -> tuple[Event, ...]:
    return tuple(Event(seq=seq, run=run, name="values") for seq in seqs)


def reader(*seqs: int, **changes: Any) -> Reader:
    ids = tuple(f"7-{seq}" for seq in seqs)
    made = Reader(id="x", tenant=TENANT, thread=THREAD, run="r1", seen=ids)
    return replace(made, **changes)


GOOD = Thread(
    tenant=TENANT,
    id=THREAD,
    head="c3",
    last_event=3,
    runs=(
        Run(id="r1", seq=1, status="success"),
        Run(id="r2", seq=2, status="success"),
    ),
    checkpoints=(
        Checkpoint(id="c1", parent=None, ordinal=1, run="r1", token=1, source="input"),
        Checkpoint(id="c2", parent="c1", ordinal=2, run="r1", token=1),
        Checkpoint(id="c3", parent="c2", ordinal=3, run="r2", token=5),
    ),
    committed=(Result(ns="", checkpoint="c1", task="k", path="~pull, n"),),
    events=(*events(1, 2), *events(3, run="r2")),
    state=("a", "b"),
    results=("k", "l"),
)
SENT = (message("a", "r1", 1), message("b", "r2", 2))
HISTORY = History(
    messages=SENT,
    reads=(read(1), read(3, "a", checkpoint="c2"), read(4, "a", "b", checkpoint="c3")),
    readers=(reader(1, 2, whole=True),),
    executions=(begun("k", 1.0), begun("k", 2.0, pid=2), begun("l", 3.0, pid=2)),
    faults=(Fault(kind="kill", at=1.5, until=1.5, pid=1),),
    threads=(GOOD,),
)


def found(**changes: Any) -> set[Invariant]:
    """What is violated by the good history with these changes."""
    return {violation.invariant for violation in check(replace(HISTORY, **changes))}


def on_thread(**changes: Any) -> set[Invariant]:
    return found(threads=(replace(GOOD, **changes),))


def test_a_good_history_keeps_every_promise() -> None:
    findings = judge(HISTORY)
    assert [f.invariant for f in findings] == list(Invariant)
    assert [v for f in findings for v in f.violations] == []
    assert all(f.facts for f in findings), "a rule that looked at nothing"


def test_nothing_is_wrong_with_nothing() -> None:
    assert check(History()) == []


# ------------------------------------------------------------------------------- I1


@pytest.mark.parametrize("state", [("a", "b", "b"), ("a",), (), None])
def test_an_acknowledged_message_is_there_exactly_once(state: Any) -> None:
    assert Invariant.APPLIED_ONCE in on_thread(state=state)


def test_a_failed_message_is_never_there() -> None:
    failed = message("b", None, 2, outcome=Outcome.FAIL)
    assert Invariant.APPLIED_ONCE in found(messages=(SENT[0], failed))


def test_an_unknown_message_is_there_at_most_once() -> None:
    unknown = message("b", None, 2)
    assert found(messages=(SENT[0], unknown)) == set()
    twice = replace(GOOD, state=("a", "b", "b"))
    violated = found(messages=(SENT[0], unknown), threads=(twice,))
    assert Invariant.APPLIED_ONCE in violated
    lost = replace(GOOD, state=("a",), runs=GOOD.runs[:1])
    assert found(messages=(SENT[0], unknown), threads=(lost,), reads=()) == set()


def test_a_message_whose_run_failed_may_be_there_or_not() -> None:
    runs = (GOOD.runs[0], replace(GOOD.runs[1], status="error"))
    assert on_thread(runs=runs) == set()
    left_out = replace(GOOD, runs=runs, state=("a",))
    assert found(threads=(left_out,), reads=()) == set()


def test_a_message_is_found_by_its_key() -> None:
    """Its client was never told of a run; the key of its tries says which it became."""
    unknown = message("b", None, 2, key="key")
    lost = replace(GOOD, state=("a",), claimed={"key": "r2"})
    violated = found(messages=(SENT[0], unknown), threads=(lost,), reads=())
    assert violated == {Invariant.APPLIED_ONCE, Invariant.BALANCED}


# ------------------------------------------------------------------------------- I2


def test_the_state_is_in_the_order_of_acceptance() -> None:
    assert Invariant.IN_ORDER in on_thread(state=("b", "a"))


def test_acceptance_is_in_the_order_of_one_client() -> None:
    swapped = (replace(GOOD.runs[0], seq=2), replace(GOOD.runs[1], seq=1))
    thread = replace(GOOD, runs=swapped, state=("b", "a"))
    assert found(threads=(thread,), reads=()) == {Invariant.IN_ORDER}
    together = tuple(replace(sent, ended_at=9.0) for sent in SENT)
    assert found(threads=(thread,), reads=(), messages=together) == set()
    others = (SENT[0], replace(SENT[1], by="another client"))
    assert found(threads=(thread,), reads=(), messages=others) == set()


# ------------------------------------------------------------------------------- I3


def forked(**changes: Any) -> tuple[Checkpoint, ...]:
    return (*GOOD.checkpoints[:2], replace(GOOD.checkpoints[2], parent="c1", **changes))


def test_a_checkpoint_follows_the_one_before_it() -> None:
    assert on_thread(checkpoints=forked()) == {Invariant.ONE_PATH}


def test_users_may_fork() -> None:
    assert on_thread(checkpoints=forked(source="update")) == set()
    asked = (GOOD.runs[0], replace(GOOD.runs[1], forks=True))
    assert on_thread(checkpoints=forked(), runs=asked) == set()


def test_a_run_that_forks_does_so_once() -> None:
    asked = (GOOD.runs[0], replace(GOOD.runs[1], forks=True))
    again = Checkpoint(id="c4", parent="c1", ordinal=4, run="r2", token=5)
    path = (*forked(), again)
    violated = on_thread(checkpoints=path, runs=asked, head="c4")
    assert violated == {Invariant.ONE_PATH}


def test_the_head_is_the_last_checkpoint() -> None:
    assert on_thread(head="c2") == {Invariant.ONE_PATH}


# ------------------------------------------------------------------------------- I4


def test_tokens_do_not_fall() -> None:
    stale = replace(GOOD.checkpoints[2], token=0)
    path = (*GOOD.checkpoints[:2], stale)
    assert on_thread(checkpoints=path) == {Invariant.TOKENS_RISE}
    unfenced = (*GOOD.checkpoints[:2], replace(stale, token=None))
    assert on_thread(checkpoints=unfenced) == set()


# ------------------------------------------------------------------------------- I5


def test_a_task_has_one_result() -> None:
    other = replace(GOOD.committed[0], task="z")
    assert on_thread(committed=(*GOOD.committed, other)) == {Invariant.ONE_RESULT}
    beside = replace(other, path="~pull, m")
    assert on_thread(committed=(*GOOD.committed, beside)) == set()


def test_a_mark_of_a_task_is_there_once() -> None:
    assert on_thread(results=("k", "l", "k")) == {Invariant.ONE_RESULT}


def test_a_repetition_needs_a_fault_of_its_own_process() -> None:
    assert found(faults=()) == {Invariant.ONE_RESULT}
    kill = HISTORY.faults[0]
    assert found(faults=(replace(kill, pid=3),)) == {Invariant.ONE_RESULT}
    assert found(faults=(replace(kill, pid=None),)) == set()
    assert found(faults=(replace(kill, thread="t"),)) == set()
    assert found(faults=(replace(kill, thread="u"),)) == {Invariant.ONE_RESULT}


@pytest.mark.parametrize(
    ("at", "until", "provokes"),
    [(0.1, 0.9, False), (2.1, 3.0, False), (0.1, 1.1, True), (1.9, 2.5, True)],
)
def test_a_fault_provokes_what_it_lies_between(
    at: float, until: float, *, provokes: bool
) -> None:
    fault = Fault(kind="freeze", at=at, until=until)
    assert found(faults=(fault,)) == (set() if provokes else {Invariant.ONE_RESULT})
    assert found(faults=(fault,), clock_skew_seconds=0.2) == set()


# ------------------------------------------------------------------------------- I6


def test_what_was_read_stays() -> None:
    reads = (read(1, "a", "b"), read(2, "a"))
    assert found(reads=reads) == {Invariant.READS_MONOTONIC}
    together = (read(1, "a", "b"), read(1.05, "a"))
    assert found(reads=together) == set()
    of_two = (read(1, "a", "b"), read(2, "a", by="another client"))
    assert found(reads=of_two) == set()


def test_what_was_read_is_in_the_end() -> None:
    assert found(reads=(read(1, "b"),)) == {Invariant.READS_MONOTONIC}
    assert found(reads=(read(1, "a", "b", "c"),)) == {Invariant.READS_MONOTONIC}


def test_checkpoints_that_were_read_do_not_go_back() -> None:
    reads = tuple(
        read(at, messages=None, checkpoint=c) for at, c in [(1, "c3"), (2, "c2")]
    )
    assert found(reads=reads) == {Invariant.READS_MONOTONIC}
    assert found(reads=(reads[1],)) == set()


# ------------------------------------------------------------------------------- I7


@pytest.mark.parametrize("seqs", [(1, 3), (2, 3), (1, 2)])
def test_a_log_has_no_gap(seqs: tuple[int, ...]) -> None:
    log = (*events(*seqs[:-1]), *events(seqs[-1], run="r2"))
    assert found(threads=(replace(GOOD, events=log),), readers=()) == {
        Invariant.STREAMS_WHOLE
    }


def test_events_of_ended_runs_may_have_expired() -> None:
    assert found(threads=(replace(GOOD, events=events(2)),), readers=()) == set()
    gap = replace(GOOD, events=events(1, 3, run="r2"))
    assert found(threads=(gap,), readers=()) == {Invariant.STREAMS_WHOLE}


@pytest.mark.parametrize("seqs", [(1, 1, 2), (2, 1), (1, 2, 1, 2)])
def test_a_reader_is_told_nothing_twice(seqs: tuple[int, ...]) -> None:
    assert found(readers=(reader(*seqs),)) == {Invariant.STREAMS_WHOLE}


def test_a_reader_misses_nothing() -> None:
    log = replace(GOOD, events=events(1, 2, 3))
    assert found(threads=(log,), readers=(reader(1, 3),)) == {Invariant.STREAMS_WHOLE}
    assert found(readers=(reader(1, whole=True),)) == {Invariant.STREAMS_WHOLE}
    assert found(readers=(reader(1),)) == set()
    only = frozenset({"updates"})
    assert found(readers=(reader(1, whole=True, events=only),)) == set()


# ------------------------------------------------------------------------------- I8


def test_every_run_ends() -> None:
    stuck = (GOOD.runs[0], replace(GOOD.runs[1], status="running"))
    assert on_thread(runs=stuck, status="busy", holder="r2") == {Invariant.ALL_ENDED}
    later = (GOOD.runs[0], replace(GOOD.runs[1], status="pending", scheduled=True))
    thread = replace(GOOD, runs=later, state=("a",), status="busy", holder="r2")
    sent = (SENT[0], message("b", None, 2))
    assert found(threads=(thread,), messages=sent, reads=()) == set()


@pytest.mark.parametrize(
    "left",
    [
        {"leftovers": (Leftover(kind="activation", run="r2", what="one"),)},
        {"leftovers": (Leftover(kind="superstep", run=None, what="one"),)},
        {"holder": "r2"},
        {"status": "busy"},
    ],
    ids=lambda left: next(iter(left)),
)
def test_nothing_is_left_behind(left: dict[str, Any]) -> None:
    assert on_thread(**left) == {Invariant.ALL_ENDED}


# ------------------------------------------------------------------------------- I9


def test_a_run_that_succeeded_without_its_message_is_out_of_balance() -> None:
    assert Invariant.BALANCED in on_thread(state=("a",))


def test_an_accepted_message_has_a_run() -> None:
    assert Invariant.BALANCED in on_thread(runs=GOOD.runs[:1])


def test_a_rejected_message_has_none() -> None:
    failed = message("c", None, 3, outcome=Outcome.FAIL, key="key")
    thread = replace(GOOD, claimed={"key": "r2"})
    violated = found(messages=(*SENT, failed), threads=(thread,))
    assert violated == {Invariant.BALANCED}


def test_a_run_belongs_to_a_message() -> None:
    extra = Run(id="r3", seq=3, status="success")
    assert on_thread(runs=(*GOOD.runs, extra)) == {Invariant.BALANCED}
    unknown = message("c", None, 3)
    thread = replace(GOOD, runs=(*GOOD.runs, extra))
    assert found(threads=(thread,), messages=(*SENT, unknown)) == set()


# ------------------------------------------------------------------------------ I10


@pytest.mark.parametrize(
    "rows",
    [
        {"runs": GOOD.runs[:1]},
        {"checkpoints": (replace(GOOD.checkpoints[0], run="r1"),), "head": "c1"},
        {"events": events(1), "last_event": 1},
        {"committed": (replace(GOOD.committed[0], runs=frozenset({"r1"})),)},
    ],
    ids=lambda rows: next(iter(rows)),
)
def test_no_row_is_another_tenants(rows: dict[str, Any]) -> None:
    foreign = Thread(tenant="other", id=THREAD, exists=False, **rows)
    assert found(threads=(GOOD, foreign)) == {Invariant.TENANTS_APART}


def test_two_tenants_may_have_one_thread_id() -> None:
    run = Run(id="r9", seq=1, status="success")
    theirs = Thread(tenant="other", id=THREAD, runs=(run,), state=("a",))
    sent = message("a", "r9", 1, tenant="other")
    assert found(threads=(GOOD, theirs), messages=(*SENT, sent)) == set()
