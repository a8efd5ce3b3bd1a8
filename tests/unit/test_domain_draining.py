"""Rules of `threadmill.domain.draining`: a drain fits into its grace period."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadmill.domain.draining import exit_seconds, work_seconds


@pytest.mark.parametrize(
    ("grace", "work", "ends"),
    [(180, 175, 180), (20, 15, 20), (8, 6, 8), (2, 1.5, 5), (0, 0, 5)],
)
def test_the_last_part_is_kept_for_handing_over(
    grace: float, work: float, ends: float
) -> None:
    assert (work_seconds(grace), exit_seconds(grace)) == (work, ends)


@given(st.floats(0, 1e6))
def test_handing_over_always_has_time(grace: float) -> None:
    kept = exit_seconds(grace) - work_seconds(grace)
    assert kept >= min(5, grace / 4)
    assert 0 <= work_seconds(grace) <= grace <= exit_seconds(grace)
