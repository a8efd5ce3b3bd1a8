"""The life of a run and of its thread, over every status and event."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadmill.domain.run import (
    ENDINGS,
    TERMINAL,
    TRANSITIONS,
    RunEvent,
    RunStatus,
    ThreadStatus,
    sources,
    target,
    thread_after,
    transition,
)
from threadmill.errors import Conflict


@pytest.mark.parametrize(("status", "event"), list(product(RunStatus, RunEvent)))
def test_every_pair_has_one_answer(status: RunStatus, event: RunEvent) -> None:
    if (status, event) in TRANSITIONS:
        assert transition(status, event) is TRANSITIONS[status, event]
        assert status in sources(event)
        assert transition(status, event) is target(event)
    else:
        assert status not in sources(event)
        with pytest.raises(Conflict, match=f"{status} cannot {event}"):
            transition(status, event)


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_an_ended_run_stays_as_it_is_unless_it_is_redriven(status: RunStatus) -> None:
    leaving = [event for event in RunEvent if status in sources(event)]
    assert leaving == ([RunEvent.REDRIVE] if status is RunStatus.ERROR else [])


def test_a_redriven_run_is_as_if_just_accepted() -> None:
    assert target(RunEvent.REDRIVE) is RunStatus.PENDING


@pytest.mark.parametrize("event", ENDINGS)
def test_every_ending_ends(event: RunEvent) -> None:
    assert target(event) in TERMINAL
    assert RunStatus.RUNNING in sources(event)


def test_only_a_run_that_began_can_succeed_or_pause() -> None:
    for event in (RunEvent.SUCCEED, RunEvent.PAUSE):
        assert sources(event) == [RunStatus.RUNNING]


def test_a_pause_reads_as_success_of_the_run_and_interruption_of_the_thread() -> None:
    assert target(RunEvent.PAUSE) is RunStatus.SUCCESS
    assert thread_after(RunEvent.PAUSE, more=False) is ThreadStatus.INTERRUPTED
    assert target(RunEvent.CANCEL) is RunStatus.INTERRUPTED


@pytest.mark.parametrize("event", ENDINGS)
def test_a_thread_is_busy_as_long_as_runs_wait(event: RunEvent) -> None:
    assert thread_after(event, more=True) is ThreadStatus.BUSY
    assert thread_after(event, more=False) is not ThreadStatus.BUSY


@given(st.lists(st.sampled_from(RunEvent), max_size=12))
def test_a_run_ends_once_and_once_more_for_each_redrive(
    events: list[RunEvent],
) -> None:
    status, ended, redriven = RunStatus.PENDING, 0, 0
    for event in events:
        try:
            following = transition(status, event)
        except Conflict:
            continue
        ended += following in TERMINAL
        redriven += event is RunEvent.REDRIVE
        assert status not in TERMINAL or event is RunEvent.REDRIVE
        status = following
    assert ended == redriven + (status in TERMINAL)
