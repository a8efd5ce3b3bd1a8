"""How a list that grows becomes chunks that stay.

A list is cut into segments, each stored once under a name that is the hash of its
content. Whoever stores the list again names the segments that have not changed and
sends the others. So an append sends what is new, whatever came before.

Every item is looked at every time: a node may have changed the tenth message in place,
and only its content tells. What is saved is space and traffic, not hashing.

Segments would become as many as appends. So the last ones are merged: those shorter
than 8 into one as soon as they add up to 8 items, likewise those shorter than 64, and
those shorter than 512. An item that was appended is stored again three times at most,
and a list of n items has at most n / 512 + 21 segments.

Everything here is a pure function; no store is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ITEMS_MAX = 512
NAME_BYTES = 16

# What is shorter is merged once it adds up to so many items; the longest first.
_MERGED_AT = (512, 64, 8)
# Of each length, one less than would be merged.
_SHORT_MAX = 7 * len(_MERGED_AT)

# msgpack's arrays: up to fifteen items, up to 65,535.
_FIXARRAY = 0x90
_FIXARRAY_MAX = 15
_ARRAY16 = b"\xdc"
# Bytes of an array's head, by its first one.
_HEAD_BYTES = {0xDC: 3, 0xDD: 5}
# msgpack's objects of any length: the digits of that length, by the first byte.
_EXTENSION = {0xC7: 1, 0xC8: 2, 0xC9: 4}


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a list: the name of its content, and how many items it has."""

    name: bytes
    count: int


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of the list to be stored; with the segment that it already is."""

    start: int
    end: int
    segment: Segment | None = None

    @property
    def count(self) -> int:
        return self.end - self.start


def name_of(kind: str, data: bytes) -> bytes:
    """The name of a chunk: who has the same name has the same content.

    Args:
        kind: what the serializer calls the encoding.
        data: as the serializer gave it, before any compression.
    """
    return blake2b(kind.encode() + b"\0" + data, digest_size=NAME_BYTES).digest()


def array_of(items: Sequence[bytes]) -> bytes:
    """The msgpack array of items that are msgpack already."""
    count = len(items)
    if count <= _FIXARRAY_MAX:
        head = bytes([_FIXARRAY | count])
    else:
        head = _ARRAY16 + count.to_bytes(2, "big")
    return head + b"".join(items)


def objects_of(array: bytes) -> list[bytes] | None:
    """The items of a msgpack array, if all of them are objects: messages, mostly.

    Their length stands in front, so taking them apart costs less than serializing each
    by itself. None for everything else.
    """
    place = _HEAD_BYTES.get(array[0], 1 if array[0] & 0xF0 == _FIXARRAY else 0)
    items = []
    end = len(array)
    while 0 < place < end:
        digits = _EXTENSION.get(array[place])
        if digits is None:
            return None
        start, place = place, place + 1 + digits
        place += 1 + int.from_bytes(array[start + 1 : place], "big")
        items.append(array[start:place])
    return items or None


def fold(
    kind: str, items: Sequence[bytes], before: Sequence[Segment]
) -> list[tuple[Segment, bytes]]:
    """Cuts a list so that it shares with what is stored what it can.

    Args:
        kind: the encoding of its segments; part of their names.
        items: every item, in msgpack.
        before: the segments of the list as it was; none is always right.

    Returns:
        The segments in order, each with its content.
    """
    spans = _merged(list(_shared(kind, items, before)))
    if len(spans) > len(items) // ITEMS_MAX + _SHORT_MAX:
        spans = list(_cut(0, len(items)))
    return [_stored(kind, items, span) for span in spans]


def _stored(kind: str, items: Sequence[bytes], span: _Span) -> tuple[Segment, bytes]:
    data = array_of(items[span.start : span.end])
    return span.segment or Segment(name_of(kind, data), span.count), data


def _shared(
    kind: str, items: Sequence[bytes], before: Sequence[Segment]
) -> Iterator[_Span]:
    """What is as it was keeps its segment; of two ways to look, the better one."""
    found = _in_place(kind, items, before)
    lengthened = len(items) - sum(segment.count for segment in before)
    if lengthened and any(span.segment is None for span in found[: len(before)]):
        around = _around(kind, items, before)
        if _kept(around) > _kept(found):
            found = around
    for span in found:
        yield from (span,) if span.segment else _cut(span.start, span.end)


def _in_place(
    kind: str, items: Sequence[bytes], before: Sequence[Segment]
) -> list[_Span]:
    """Items were changed where they stand, added to the end or taken from it."""
    spans = []
    starts = accumulate((segment.count for segment in before), initial=0)
    for start, segment in zip(starts, before, strict=False):
        end = min(start + segment.count, len(items))
        if start < end:
            same = _is(kind, items, start, segment)
            spans.append(_Span(start, end, segment if same else None))
    known = sum(segment.count for segment in before)
    if known < len(items):
        spans.append(_Span(known, len(items)))
    return spans


def _around(
    kind: str, items: Sequence[bytes], before: Sequence[Segment]
) -> list[_Span]:
    """Items were put in, or taken out, at one place: the rest has moved."""
    first: list[_Span] = []
    start = 0
    for segment in before:
        if not _is(kind, items, start, segment):
            break
        first.append(_Span(start, start + segment.count, segment))
        start += segment.count
    last: list[_Span] = []
    end = len(items)
    for segment in reversed(before[len(first) :]):
        place = end - segment.count
        if place < start or not _is(kind, items, place, segment):
            break
        last.append(_Span(place, end, segment))
        end = place
    middle = [_Span(start, end)] if start < end else []
    return [*first, *middle, *reversed(last)]


def _is(kind: str, items: Sequence[bytes], start: int, segment: Segment) -> bool:
    part = items[start : start + segment.count]
    return len(part) == segment.count and name_of(kind, array_of(part)) == segment.name


def _kept(spans: Sequence[_Span]) -> int:
    return sum(span.count for span in spans if span.segment)


def _cut(start: int, end: int) -> Iterator[_Span]:
    for place in range(start, end, ITEMS_MAX):
        yield _Span(place, min(place + ITEMS_MAX, end))


def _merged(spans: list[_Span]) -> list[_Span]:
    for limit in _MERGED_AT:
        place = len(spans)
        while place and spans[place - 1].count < limit:
            place -= 1
        short = spans[place:]
        if len(short) > 1 and short[-1].end - short[0].start >= limit:
            return [*spans[:place], *_cut(short[0].start, short[-1].end)]
    return spans
