"""Format 2 of a checkpoint: a small body, and chunks that checkpoints share.

A plain list becomes segments (`segments`). Any other value of more than `INLINE_BYTES`
is one chunk under the hash of its content; smaller ones stay in the body. The body is
msgpack: the type and data of LangGraph's checkpoint without its channels' values, then
for each channel

    [type, data]      the value itself, as the serializer gave it
    n                 the n-th chunk is the value
    [n, m, ...]       these chunks are parts of a list

The numbers are places in the list of the checkpoint's chunks, which is stored beside
the body, so that a store can find references without reading bodies.

Items of a list are taken apart, or serialized one by one, and joined as msgpack joins
them: they read back as if the list had been serialized whole. A serializer whose lists
are no msgpack (one that encrypts) has them stored as other values are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import ormsgpack

from threadmill.checkpoints.compression import Blob, expanded, squeezed
from threadmill.checkpoints.segments import Segment, fold, name_of, objects_of
from threadmill.errors import InvariantViolated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langgraph.checkpoint.base import Checkpoint
    from langgraph.checkpoint.serde.base import SerializerProtocol

# Of the whole checkpoint in one blob, and of what this module does.
WHOLE = 1
FORMAT = 2

INLINE_BYTES = 256

_MSGPACK = "msgpack"
# What msgpack puts before the only item of a list.
_ONE_ITEM = 0x91


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which chunks a checkpoint holds.

    Args:
        lists: of each channel that is stored in segments, these.
        names: of every chunk.
    """

    lists: Mapping[str, Sequence[Segment]] = field(default_factory=dict)
    names: frozenset[bytes] = frozenset()


NOTHING = Manifest()


@dataclass(frozen=True, slots=True)
class Packed:
    """A checkpoint to be stored.

    Args:
        body: everything but the chunks, compressed if that pays.
        names: its chunks, in the order that the body counts them in.
        chunks: those to be sent, by name, compressed if that pays.
        manifest: what the next checkpoint compares itself with.
        size: bytes of all values before compression, sent or not; but not of those
            that the parent was measured with.
        format: the number to be stored with it.
    """

    body: Blob
    names: Sequence[bytes]
    chunks: Mapping[bytes, Blob]
    manifest: Manifest
    size: int
    format: int = FORMAT


class ValueFailed(Exception):  # not an outcome: the codec names it anew
    """The serializer has refused a channel's value."""

    def __init__(self, channel: str, error: Exception) -> None:
        super().__init__(channel)
        self.channel = channel
        self.error = error


@dataclass(slots=True)
class Packing:
    """Packs one checkpoint.

    Args:
        serde: LangGraph's serializer.
        before: the chunks of the checkpoint that it was made from, or of any other.
        there: names of chunks that need not be sent.
        carried: channels that hold what `before` has of them, for certain.
    """

    serde: SerializerProtocol
    before: Manifest
    there: frozenset[bytes]
    carried: frozenset[str] = frozenset()
    names: dict[bytes, int] = field(default_factory=dict)
    chunks: dict[bytes, Blob] = field(default_factory=dict)
    lists: dict[str, Sequence[Segment]] = field(default_factory=dict)
    size: int = 0

    def pack(self, checkpoint: Checkpoint) -> Packed:
        """The whole checkpoint.

        Raises:
            ValueFailed: by the serializer's refusal of one value.
        """
        values = {}
        for channel, value in checkpoint["channel_values"].items():
            try:
                values[channel] = self._entry(channel, value)
            except Exception as error:
                raise ValueFailed(channel, error) from error
        rest = self.serde.dumps_typed({**checkpoint, "channel_values": {}})
        body = Blob(_MSGPACK, ormsgpack.packb([*rest, values]))
        return Packed(
            body=squeezed(body),
            names=tuple(self.names),
            chunks=self.chunks,
            manifest=Manifest(self.lists, frozenset(self.names)),
            size=self.size + len(body.data),
        )

    def _entry(self, channel: str, value: Any) -> Any:
        as_before = self.before.lists.get(channel) if channel in self.carried else None
        if as_before and self.there.issuperset(part.name for part in as_before):
            self.lists[channel] = as_before
            return [self._place(part.name) for part in as_before]
        blob = Blob(*self.serde.dumps_typed(value))
        if len(blob.data) <= INLINE_BYTES:
            return [blob.type, blob.data]
        # An heir of list may be more than its items.
        if type(value) is list and (items := self._items(value, blob)) is not None:
            segments = fold(_MSGPACK, items, self.before.lists.get(channel, ()))
            self.lists[channel] = tuple(segment for segment, _ in segments)
            return [
                self._chunk(segment.name, Blob(_MSGPACK, data))
                for segment, data in segments
            ]
        return self._chunk(name_of(blob.type, blob.data), blob)

    def _items(self, value: Sequence[Any], blob: Blob) -> list[bytes] | None:
        """Every item in msgpack; None when the serializer writes something else."""
        if blob.type != _MSGPACK:
            return None
        if (found := objects_of(blob.data)) is not None:
            return found
        items = []
        for item in value:
            kind, data = self.serde.dumps_typed([item])
            if kind != _MSGPACK or data[0] != _ONE_ITEM:
                return None
            items.append(data[1:])
        return items

    def _chunk(self, name: bytes, blob: Blob) -> int:
        if name not in self.names:
            self.size += len(blob.data)
            if name not in self.there:
                self.chunks[name] = squeezed(blob)
        return self._place(name)

    def _place(self, name: bytes) -> int:
        return self.names.setdefault(name, len(self.names))


def unpack(
    serde: SerializerProtocol,
    body: Blob,
    names: Sequence[bytes],
    chunks: Mapping[bytes, Blob],
) -> tuple[Checkpoint, Manifest]:
    """The checkpoint that was packed, and what its next one compares itself with.

    Args:
        serde: LangGraph's serializer.
        body: as it was stored.
        names: its chunks, as they were stored beside it.
        chunks: these and perhaps others, expanded.

    Raises:
        InvariantViolated: a chunk is missing.
    """
    kind, rest, entries = ormsgpack.unpackb(expanded(body).data)
    checkpoint: Any = serde.loads_typed((kind, rest))
    lists: dict[str, Sequence[Segment]] = {}

    def load(place: int) -> Any:
        name = names[place]
        if name not in chunks:
            msg = f"chunk {name.hex()} of checkpoint {checkpoint['id']} is missing"
            raise InvariantViolated(msg)
        blob = chunks[name]
        return serde.loads_typed((blob.type, blob.data))

    def value(channel: str, entry: Any) -> Any:
        if isinstance(entry, int):
            return load(entry)
        if entry and isinstance(entry[0], str):
            return serde.loads_typed((entry[0], entry[1]))
        parts = [load(place) for place in entry]
        lists[channel] = tuple(
            Segment(names[place], len(part))
            for place, part in zip(entry, parts, strict=True)
        )
        return [item for part in parts for item in part]

    checkpoint["channel_values"] = {
        channel: value(channel, entry) for channel, entry in entries.items()
    }
    return cast("Checkpoint", checkpoint), Manifest(lists, frozenset(names))


def entries_of(body: Blob) -> Mapping[str, Any]:
    """How the values of each channel are stored, as the module's head describes it."""
    _, _, entries = ormsgpack.unpackb(expanded(body).data)
    return cast("Mapping[str, Any]", entries)


def chunks_of_entry(entry: Any, names: Sequence[bytes]) -> Sequence[bytes]:
    """The chunks that hold a channel's value; none of a value in the body."""
    if isinstance(entry, int):
        return [names[entry]]
    return [names[place] for place in entry if isinstance(place, int)]


def value_of_entry(
    serde: SerializerProtocol,
    entry: Any,
    names: Sequence[bytes],
    chunks: Mapping[bytes, Blob],
) -> Any:
    """One channel's value.

    Args:
        serde: LangGraph's serializer.
        entry: of `entries_of`.
        names: of the checkpoint's chunks.
        chunks: those that `chunks_of_entry` names, expanded.

    Raises:
        KeyError: a chunk is missing.
    """
    if not isinstance(entry, int) and entry and isinstance(entry[0], str):
        return serde.loads_typed((entry[0], entry[1]))
    blobs = [chunks[name] for name in chunks_of_entry(entry, names)]
    parts = [serde.loads_typed((blob.type, blob.data)) for blob in blobs]
    return parts[0] if isinstance(entry, int) else [i for part in parts for i in part]
