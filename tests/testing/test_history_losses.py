"""What lies in a window of loss is excused, and the same outside of it is not.

The good history of `test_history_rules`; its database has gone back, and lost the
second message and whatever came of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.testing.test_history_rules import (
    GOOD,
    HISTORY,
    SENT,
    begun,
    events,
    message,
    read,
    reader,
)
from threadmill.testing.history import History, Invariant, check
from threadmill.testing.history.facts import Event, Loss, Outcome
from threadmill.testing.history.report import loss_lines

# The second message was acknowledged at 2.5, and read at 4.
WINDOW = Loss(at=2.2, until=4.5)
BEFORE, AFTER = Loss(at=0.1, until=2.4), Loss(at=4.2, until=9.0)
NO_TIME_AT_ALL = Loss(at=2.4, until=2.4)
ELSEWHEN = pytest.mark.parametrize(
    "loss", [BEFORE, AFTER, NO_TIME_AT_ALL], ids=["before", "after", "of no length"]
)
# What the database holds once it has gone back.
BACK = replace(
    GOOD,
    head="c2",
    last_event=2,
    runs=GOOD.runs[:1],
    checkpoints=GOOD.checkpoints[:2],
    events=events(1, 2),
    state=("a",),
    results=("k",),
)


def found(*losses: Loss, **changes: Any) -> set[Invariant]:
    """What is violated where the database has gone back."""
    history = replace(HISTORY, losses=losses, **{"threads": (BACK,), **changes})
    return {violation.invariant for violation in check(history)}


def test_all_that_is_gone_was_told_in_the_window() -> None:
    assert found(WINDOW) == set()
    assert found(replace(BEFORE, until=1.0), WINDOW, replace(AFTER, at=8.0)) == set()


def test_without_a_window_it_is_a_loss() -> None:
    lost = {Invariant.APPLIED_ONCE, Invariant.READS_MONOTONIC, Invariant.BALANCED}
    assert found() == lost
    assert found(NO_TIME_AT_ALL) == lost


def test_a_window_without_a_loss_excuses_nothing_that_is_there() -> None:
    assert found(WINDOW, threads=(GOOD,)) == set()
    left_out = replace(GOOD, state=("a",))
    lost = {Invariant.APPLIED_ONCE, Invariant.BALANCED}
    assert found(WINDOW, threads=(left_out,), reads=()) == lost
    assert found(WINDOW, threads=(replace(BACK, state=()),), reads=()) == lost


# --------------------------------------------------------------------------- I1, I9


def test_a_message_is_not_lost_by_half() -> None:
    """A run is stored before what it writes: it is not gone where that is there."""
    by_half = replace(BACK, state=("a", "b"))
    assert found(WINDOW, threads=(by_half,)) == {Invariant.APPLIED_ONCE}
    checkpoint = replace(BACK, head="c3", checkpoints=GOOD.checkpoints)
    assert found(WINDOW, threads=(checkpoint,)) == {Invariant.BALANCED}
    result = replace(GOOD.committed[0], path="~pull, m", runs=frozenset({"r2"}))
    committed = replace(BACK, committed=(*BACK.committed, result))
    assert found(WINDOW, threads=(committed,)) == {Invariant.BALANCED}


@ELSEWHEN
def test_a_message_that_was_acknowledged_elsewhen_is_not_excused(loss: Loss) -> None:
    assert found(loss, reads=()) == {Invariant.APPLIED_ONCE, Invariant.BALANCED}


def test_clocks_that_are_apart_widen_the_window() -> None:
    near = replace(BEFORE, until=2.45)
    assert found(near, reads=(), clock_skew_seconds=0.1) == set()


def test_what_was_lost_may_be_sent_again_and_counts_once() -> None:
    again = (SENT[0], message("b", "r2", 6))
    assert found(WINDOW, messages=again, threads=(GOOD,)) == set()
    twice = replace(GOOD, state=("a", "b", "b"))
    violated = found(WINDOW, messages=again, threads=(twice,), reads=())
    assert violated == {Invariant.APPLIED_ONCE}


def test_a_refused_message_is_never_there_also_in_a_window() -> None:
    failed = message("b", None, 2, outcome=Outcome.FAIL)
    violated = found(WINDOW, messages=(SENT[0], failed), threads=(GOOD,))
    assert Invariant.APPLIED_ONCE in violated


def test_a_run_that_nobody_asked_for_is_not_excused() -> None:
    """What was lost leaves no run behind that could be anybody's."""
    other = replace(BACK, runs=(GOOD.runs[0], replace(GOOD.runs[1], id="r9")))
    assert found(WINDOW, threads=(other,)) == {Invariant.BALANCED}


# ------------------------------------------------------------------------------- I5


def test_a_task_whose_result_may_be_lost_may_run_again() -> None:
    again = (begun("k", 3.0), begun("k", 5.0, pid=2))
    assert found(executions=again, reads=(), messages=SENT[:1]) == {
        Invariant.ONE_RESULT
    }
    assert found(WINDOW, executions=again) == set()


@pytest.mark.parametrize("times", [(3.0, 4.0), (5.0, 6.0), (1.0, 2.0)])
def test_a_task_is_not_repeated_before_the_loss_nor_twice_after(
    times: tuple[float, float],
) -> None:
    executions = tuple(begun("k", at) for at in times)
    faultless: dict[str, Any] = {"executions": executions, "faults": ()}
    assert found(WINDOW, **faultless) == {Invariant.ONE_RESULT}


WENT_ON = replace(
    GOOD,
    committed=(
        *GOOD.committed,
        replace(GOOD.committed[0], checkpoint="c2", task="m"),
    ),
)
AGAIN = (begun("k", 1.0), begun("k", 5.0, pid=2))


def test_a_task_is_not_repeated_whose_run_had_gone_on_before_the_window() -> None:
    """A node begins only when what it builds on is stored, and stays."""
    on: dict[str, Any] = {"threads": (WENT_ON,), "faults": (), "reads": ()}
    assert found(WINDOW, executions=AGAIN, **on) == set()
    early, late = begun("m", 2.0), begun("m", 2.3)
    assert found(WINDOW, executions=(*AGAIN, early), **on) == {Invariant.ONE_RESULT}
    assert found(WINDOW, executions=(*AGAIN, late), **on) == set()
    skew = {"clock_skew_seconds": 0.3}
    assert found(WINDOW, executions=(*AGAIN, early), **on, **skew) == set()


def test_only_a_later_step_of_the_same_run_shows_that_a_task_was_done() -> None:
    on: dict[str, Any] = {"faults": (), "reads": ()}
    other = replace(begun("m", 2.0), run="r2")
    executions = (*AGAIN, other)
    assert found(WINDOW, executions=executions, threads=(WENT_ON,), **on) == set()
    beside = replace(WENT_ON.committed[1], checkpoint="c1", path="~pull, m")
    fan = replace(WENT_ON, committed=(WENT_ON.committed[0], beside))
    executions = (*AGAIN, begun("m", 2.0))
    assert found(WINDOW, executions=executions, threads=(fan,), **on) == set()
    gone = replace(WENT_ON, committed=WENT_ON.committed[:1])
    assert found(WINDOW, executions=executions, threads=(gone,), **on) == set()


def test_what_was_read_before_the_window_shows_that_a_task_was_done() -> None:
    on: dict[str, Any] = {"faults": (), "threads": (GOOD,), "executions": AGAIN}
    early, late = (read(at, "a", checkpoint="c2") for at in (1.5, 2.3))
    assert found(WINDOW, reads=(early,), **on) == {Invariant.ONE_RESULT}
    assert found(WINDOW, reads=(late,), **on) == set()


def test_a_task_has_one_result_also_after_a_loss() -> None:
    other = replace(GOOD.committed[0], task="z")
    thread = replace(BACK, committed=(*GOOD.committed, other))
    assert found(WINDOW, threads=(thread,)) == {Invariant.ONE_RESULT}


# ------------------------------------------------------------------------------- I6


@ELSEWHEN
def test_what_was_read_elsewhen_stays(loss: Loss) -> None:
    reads = (read(2.5, "a", "b"), read(6, "a"))
    lost = {"messages": SENT[:1], "reads": reads, "faults": HISTORY.faults}
    shifted = tuple(
        replace(r, began_at=r.began_at + 0.5, ended_at=r.ended_at + 0.5) for r in reads
    )
    assert found(WINDOW, **lost) == set()
    assert found(loss, **{**lost, "reads": shifted}) == {Invariant.READS_MONOTONIC}


def test_reads_agree_until_the_end_of_the_window() -> None:
    """It is at its end that the database goes back, not within it."""
    within = (read(2.5, "a", "b"), read(3.5, "a"))
    assert found(WINDOW, reads=within) == {Invariant.READS_MONOTONIC}
    into = (read(1, "a"), read(3.5, "b"))
    assert found(WINDOW, reads=into) == {Invariant.READS_MONOTONIC}
    across = (read(1, "a", "b"), read(3.5, "a", "b"), read(6, "a"))
    assert found(WINDOW, reads=across) == {Invariant.READS_MONOTONIC}


def test_a_read_that_is_answered_after_the_window_is_of_either_database() -> None:
    """It was asked for while the first one fell, and came once the other one spoke."""
    over = replace(read(4, "a"), ended_at=5.0)
    assert found(WINDOW, reads=(read(3, "a", "b"), over)) == set()
    within = replace(over, ended_at=4.4)
    violated = {Invariant.READS_MONOTONIC}
    assert found(WINDOW, reads=(read(3, "a", "b"), within)) == violated
    skewed = found(WINDOW, reads=(read(3, "a", "b"), within), clock_skew_seconds=0.2)
    assert skewed == set()


def test_checkpoints_that_were_read_agree_outside_of_windows() -> None:
    reads = tuple(
        read(at, messages=None, checkpoint=c) for at, c in [(1, "c2"), (6, "c1")]
    )
    assert found(WINDOW, reads=reads) == {Invariant.READS_MONOTONIC}


# ------------------------------------------------------------------------------- I7


def followed(*seqs: int, at: tuple[float, ...], **changes: Any) -> set[Invariant]:
    """One reader, of a run whose events are 1 to 4; all but the first are made anew."""
    made_anew = tuple(replace(event, ms=8) for event in events(2, 3, 4))
    thread = replace(BACK, events=(*events(1), *made_anew), last_event=4)
    one = reader(*seqs, seen_at=at, **changes)
    return found(WINDOW, threads=(thread,), readers=(one,))


def test_events_that_are_gone_leave_their_numbers_to_others() -> None:
    """The reader comes back after the last one it saw; what is new before is not told.

    Events 2 and 4 of this run were told; in the end 3 is its, too.
    """
    assert followed(1, 2, 4, at=(1, 3, 3), whole=True, ended_at=6) == set()
    wrong = {Invariant.STREAMS_WHOLE}
    assert followed(1, 2, 4, at=(1, 1, 6), whole=True, ended_at=6) == wrong
    assert followed(2, 4, at=(1, 3), whole=True, ended_at=6) == wrong
    assert followed(2, 3, 4, at=(3, 3, 3), whole=True, ended_at=6) == set()
    assert followed(1, 2, at=(1, 3), whole=True, ended_at=6) == wrong


def test_who_was_told_what_is_still_there_missed_what_lies_between() -> None:
    """In a window, too: only what is gone has given its number away."""
    wrong = {Invariant.STREAMS_WHOLE}
    one = reader(1, 2, 4, seen_at=(1, 3, 3))

    def judged(*others: Event) -> set[Invariant]:
        there = {event.seq: event for event in (*events(1, 2, 3, 4), *others)}
        ordered = tuple(there[seq] for seq in sorted(there))
        thread = replace(BACK, events=ordered, last_event=4)
        return found(WINDOW, threads=(thread,), readers=(one,))

    assert judged() == wrong
    assert judged(*(replace(event, ms=7) for event in events(2, 4))) == wrong
    assert judged(*events(2, 4, run="r2")) == set()
    assert judged(*(replace(event, ms=8) for event in events(2, 4))) == set()
    assert judged(*events(4, run="r2")) == set()
    assert judged(*events(2, run="r2")) == wrong


def test_an_end_that_is_gone_is_followed_by_another_one() -> None:
    assert followed(1, 2, at=(1, 2), whole=True, ended_at=3) == set()
    assert followed(1, 3, at=(1, 2), whole=True, ended_at=3) == {
        Invariant.STREAMS_WHOLE
    }


def test_nothing_is_told_twice_also_in_a_window() -> None:
    assert followed(1, 2, 2, at=(1, 3, 3)) == {Invariant.STREAMS_WHOLE}


# -------------------------------------------------------- what the database has alone


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"head": "c1"}, Invariant.ONE_PATH),
        (
            {
                "checkpoints": (
                    GOOD.checkpoints[0],
                    replace(BACK.checkpoints[1], token=0),
                )
            },
            Invariant.TOKENS_RISE,
        ),
        ({"results": ("k", "k")}, Invariant.ONE_RESULT),
        ({"events": events(2)}, Invariant.STREAMS_WHOLE),
        ({"status": "busy"}, Invariant.ALL_ENDED),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_what_the_database_has_is_judged_as_ever(
    changes: dict[str, Any], broken: Invariant
) -> None:
    runs = tuple(replace(run, begun=True) for run in BACK.runs)
    thread = replace(BACK, runs=runs, **changes)
    if broken is Invariant.STREAMS_WHOLE:
        thread = replace(thread, events=events(1, 3), last_event=3)
    assert found(WINDOW, threads=(thread,), readers=()) == {broken}


def test_the_cost_is_told() -> None:
    assert loss_lines(HISTORY) == []
    (line,) = loss_lines(replace(HISTORY, threads=(BACK,), losses=(WINDOW,)))
    assert line.startswith("1 acknowledged messages are lost, each within one of 1 ")
    assert History().is_lost(SENT[0]) is False
