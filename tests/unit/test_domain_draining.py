"""Rules of `threadmill.domain.draining`: a drain fits into its grace period."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadmill.domain.draining import (
    STOP_SECONDS,
    THREADS_SECONDS,
    exit_seconds,
    work_seconds,
)


@pytest.mark.parametrize(
    ("grace", "work", "ends"),
    [(180, 175, 180), (20, 15, 20), (8, 6, 11), (2, 1.5, 6.5), (0, 0, 5)],
)
def test_the_last_part_is_kept_for_handing_back(
    grace: float, work: float, ends: float
) -> None:
    assert (work_seconds(grace), exit_seconds(grace)) == (work, ends)


@given(st.floats(0, 1e6))
def test_what_comes_after_the_work_has_time(grace: float) -> None:
    """And closing connections has some of it."""
    kept = exit_seconds(grace) - work_seconds(grace)
    assert kept > STOP_SECONDS + THREADS_SECONDS + 1


@given(st.floats(20, 1e6))
def test_a_process_exits_with_its_period(grace: float) -> None:
    assert exit_seconds(grace) == pytest.approx(grace)
