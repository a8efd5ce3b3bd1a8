"""How lists are cut: little is new after a change, and nothing is lost."""

from __future__ import annotations

import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from threadmill.checkpoints.segments import (
    ITEMS_MAX,
    Segment,
    array_of,
    fold,
    name_of,
    objects_of,
)

KIND = "msgpack"


def _items(*values: object) -> list[bytes]:
    return [ormsgpack.packb(value) for value in values]


def _fold(items: list[bytes], before: list[Segment]) -> list[Segment]:
    """Folds, and proves that the pieces are the list."""
    found = fold(KIND, items, before)
    joined: list[object] = []
    for segment, data in found:
        assert segment.name == name_of(KIND, data)
        part = ormsgpack.unpackb(data)
        assert 0 < len(part) == segment.count <= ITEMS_MAX
        joined += part
    assert joined == [ormsgpack.unpackb(item) for item in items]
    segments = [segment for segment, _ in found]
    assert len(segments) <= len(items) // ITEMS_MAX + 21
    return segments


def _grown(count: int, step: int = 1) -> tuple[list[bytes], list[Segment]]:
    items: list[bytes] = []
    segments: list[Segment] = []
    while len(items) < count:
        items += _items(*range(len(items), min(len(items) + step, count)))
        segments = _fold(items, segments)
    return items, segments


def test_a_list_that_grows_one_by_one_has_at_most_24_segments_at_2000() -> None:
    items: list[bytes] = []
    segments: list[Segment] = []
    most, stored = 0, 0
    for number in range(2000):
        items += _items(number)
        folded = _fold(items, segments)
        stored += sum(s.count for s in folded if s not in segments)
        most, segments = max(most, len(folded)), folded
    assert most <= 24
    assert [s.count for s in segments] == [512] * 3 + [64] * 7 + [8] * 2
    # Each item once, and once again for each time that it is merged.
    assert stored <= 4 * 2000


@pytest.mark.parametrize("step", [2, 3, 7, 8, 63, 65, 511, 512, 513, 1200])
def test_appends_of_any_size_keep_few_segments_and_send_little(step: int) -> None:
    items, segments = _grown(2600, step)
    more = _fold(items + _items("new"), segments)
    sent = [s for s in more if s not in segments]
    assert sum(s.count for s in sent) <= 512


@pytest.mark.parametrize(
    ("change", "sent_most"),
    [
        (lambda items: items, 0),
        (lambda items: [*items, *_items("new")], 1),
        (lambda items: [*items[:5], *_items("edited"), *items[6:]], 512),
        (lambda items: [*items[:-1], *_items("edited")], 8),
        (lambda items: [*items[:700], *items[701:]], 64),
        (lambda items: [*items[:700], *_items("put in"), *items[700:]], 65),
        (lambda items: items[:-1], 7),
        (lambda items: items[:3], 3),
        (lambda items: [*_items("first"), *items], 513),
    ],
    ids=[
        "same",
        "append",
        "edit far back",
        "edit the last",
        "take one out",
        "put one in",
        "take the last",
        "cut short",
        "put one before",
    ],
)
def test_one_change_sends_one_segment(change, sent_most: int) -> None:  # noqa: ANN001
    items, segments = _grown(848)  # 512, five of 64, two of 8
    changed = _fold(change(items), segments)
    sent = [s for s in changed if s not in segments]
    assert sum(s.count for s in sent) <= sent_most
    assert len(sent) <= 2


def test_an_edit_and_an_append_at_once_send_two_segments() -> None:
    items, segments = _grown(848)
    items = [*items[:600], *_items("edited"), *items[601:], *_items("new")]
    changed = _fold(items, segments)
    assert [s.count for s in changed if s not in segments] == [64, 1]


def test_what_is_put_before_again_and_again_does_not_break_a_list_up() -> None:
    items, segments = _grown(1100)
    for number in range(80):
        items = [*_items(f"before {number}"), *items]
        segments = _fold(items, segments)


def test_equal_parts_have_one_name() -> None:
    items = _items(*["same"] * (2 * ITEMS_MAX))
    first, second = _fold(items, [])
    assert first == second


def test_a_name_tells_kind_and_content_apart() -> None:
    assert name_of("a", b"bc") != name_of("ab", b"c")
    assert name_of("a", b"bc") != name_of("a", b"bd")


@pytest.mark.parametrize("count", [0, 1, 15, 16, 255, 256, 512])
def test_an_array_is_what_msgpack_writes(count: int) -> None:
    assert array_of(_items(*range(count))) == ormsgpack.packb(list(range(count)))


@pytest.mark.parametrize("count", [1, 15, 16, 70_000])
def test_objects_are_taken_apart_as_if_each_were_serialized(count: int) -> None:
    objects = [
        HumanMessage("x" * (n % 5 * 100), id=str(n)) for n in range(min(count, 70))
    ] * (count // 70 + 1)
    objects[0] = HumanMessage("x" * 70_000)
    serde = JsonPlusSerializer()
    _, array = serde.dumps_typed(objects[:count])
    expected = [serde.dumps_typed([one])[1][1:] for one in objects[:70][:count]]
    found = objects_of(array)
    assert found is not None
    assert len(found) == count
    assert found[:70] == expected
    assert b"".join(found) == array[-sum(map(len, found)) :]


@pytest.mark.parametrize(
    "value", [[], [1], ["a"], [None], [{}], [[]], [HumanMessage("x"), 1], {"a": 1}, "a"]
)
def test_what_is_no_list_of_objects_is_not_taken_apart(value: object) -> None:
    _, data = JsonPlusSerializer().dumps_typed(value)
    assert objects_of(data) is None


_CHANGES = st.tuples(
    st.sampled_from(["append", "edit", "take", "put", "cut", "turn", "twice"]),
    st.integers(0, 700),
    st.integers(0, 90),
)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 700), st.lists(_CHANGES, max_size=8))
def test_any_changes_in_any_order_read_back(
    count: int, changes: list[tuple[str, int, int]]
) -> None:
    items, segments = _grown(count, 37)
    for number, (kind, wanted, size) in enumerate(changes):
        at = min(wanted, len(items))
        new = _items(*(f"{number}.{n}" for n in range(size)))
        if kind == "append":
            items = [*items, *new]
        elif kind == "edit":
            items = [*items[:at], *new[:1], *items[at + 1 :]]
        elif kind == "take":
            items = [*items[:at], *items[at + size :]]
        elif kind == "put":
            items = [*items[:at], *new, *items[at:]]
        elif kind == "cut":
            items = items[:at]
        elif kind == "turn":
            items = items[::-1]
        else:
            items = items + items
        segments = _fold(items[:4000], segments)
        items = items[:4000]
