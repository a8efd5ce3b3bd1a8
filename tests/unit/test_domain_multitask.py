"""Strategies for a busy thread: carried out, or refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadmill.domain.multitask import MultitaskStrategy, strategy
from threadmill.errors import InvalidRequest


def test_the_default_is_to_queue() -> None:
    assert strategy(None) is MultitaskStrategy.ENQUEUE


@pytest.mark.parametrize("known", list(MultitaskStrategy))
def test_known_names(known: MultitaskStrategy) -> None:
    assert strategy(known.value) is known


@pytest.mark.parametrize("name", ["interrupt", "rollback"])
def test_what_is_not_carried_out_yet_is_never_queued_instead(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{name}' is not supported"):
        strategy(name)


@given(
    st.text().filter(
        lambda name: name not in {"enqueue", "reject", "interrupt", "rollback"}
    )
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is unknown"):
        strategy(name)
