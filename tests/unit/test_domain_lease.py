"""A worker gives up before the database gives its work away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from threadmill.domain.lease import LeaseTimes

_seconds = st.floats(min_value=0.1, max_value=3600, allow_nan=False)


@given(
    lease=_seconds,
    margin_share=st.floats(min_value=0.01, max_value=0.5),
    asked_at=st.floats(min_value=0, max_value=1e6),
    trip=st.floats(min_value=0, max_value=10),
)
def test_the_deadline_is_earlier_than_the_lease(
    lease: float, margin_share: float, asked_at: float, trip: float
) -> None:
    """However long the claim was on its way: the database counts from its arrival."""
    times = LeaseTimes(
        lease_seconds=lease,
        renew_seconds=lease / 3,
        margin_seconds=lease * margin_share,
    )
    lease_ends_at = asked_at + trip + lease
    assert times.deadline(asked_at) < lease_ends_at
    assert times.deadline(asked_at) > asked_at


def test_a_missed_renewal_is_survived() -> None:
    times = LeaseTimes()
    after_two_renewals = 2 * times.renew_seconds
    assert times.deadline(0.0) > after_two_renewals
