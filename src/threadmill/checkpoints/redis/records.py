"""What scripts take and give: checkpoints as bytes, and bytes as checkpoints again.

A stored checkpoint begins with what scripts need of it, in the layout of `records.lua`:
ordinal, time, names of its chunks, parent, run, metadata. The rest is msgpack and the
client's own: format, type and data of the body, and the activation and token that it
was put by. A chunk is its type, a NUL, and its data.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import ormsgpack

from threadmill.checkpoints.base import Stored
from threadmill.checkpoints.compression import Blob
from threadmill.checkpoints.known import Known
from threadmill.checkpoints.segments import NAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata

    from threadmill.checkpoints.codec import Codec, WriteRow
    from threadmill.checkpoints.packing import Manifest, Packed
    from threadmill.domain.fence import Fence

# Chunks are told from each other by their content, wherever they are: no epochs.
EPOCH: Final = 0

_HEAD: Final = struct.Struct(">QQ")
_SHORT: Final = struct.Struct(">H")
_LONG: Final = struct.Struct(">I")
_WRITE_PARTS: Final = 7


@dataclass(frozen=True, slots=True)
class Header:
    """What a scan shows of a checkpoint.

    Args:
        at: when it was put, in microseconds, by the server's clock.
        end: where the client's own part begins.
    """

    ordinal: int
    at: int
    names: Sequence[bytes]
    parent: str
    run: str
    metadata: CheckpointMetadata
    end: int

    @property
    def run_id(self) -> UUID | None:
        """The run, if its name is an id."""
        try:
            return UUID(self.run)
        except ValueError:
            return None


def header_of(data: bytes) -> Header:
    """The beginning of a stored checkpoint."""
    ordinal, at = _HEAD.unpack_from(data)
    names, place = _sized(data, _HEAD.size, _LONG)
    parent, place = _sized(data, place, _SHORT)
    run, place = _sized(data, place, _SHORT)
    metadata, place = _sized(data, place, _LONG)
    return Header(
        ordinal=ordinal,
        at=at,
        names=[names[n : n + NAME_BYTES] for n in range(0, len(names), NAME_BYTES)],
        parent=parent.decode(),
        run=run.decode(),
        metadata=json.loads(metadata),
        end=place,
    )


def _sized(data: bytes, place: int, size: struct.Struct) -> tuple[bytes, int]:
    (length,) = size.unpack_from(data, place)
    place += size.size
    return data[place : place + length], place + length


def rest_of(packed: Packed, fence: Fence | None) -> bytes:
    """The client's own part of a checkpoint."""
    by = [str(fence.activation_id), fence.token] if fence else None
    return ormsgpack.packb([packed.format, packed.body.type, packed.body.data, by])


def chunk_of(blob: Blob) -> bytes:
    """A chunk as it is stored."""
    return blob.type.encode() + b"\0" + blob.data


def blob_of(value: bytes) -> Blob:
    """What `chunk_of` has stored."""
    kind, _, data = value.partition(b"\0")
    return Blob(kind.decode(), data)


def chunks_of(codec: Codec, found: Sequence[bytes]) -> Mapping[bytes, Blob]:
    """Chunks by name, out of names and values in turns."""
    return {
        name: codec.chunk(blob_of(value))
        for name, value in zip(found[::2], found[1::2], strict=True)
    }


def write_args(rows: Sequence[WriteRow]) -> Iterator[str | bytes | int]:
    """Pending writes of one task, as `commit` takes them."""
    yield len(rows)
    for row in rows:
        yield row.idx
        yield row.channel
        yield row.blob.type
        yield row.blob.data


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """One write as it is stored; `place` is its rank in LangGraph's order."""

    place: tuple[str, str, int]
    channel: str
    run: str
    blob: Blob

    def loaded(self, codec: Codec) -> tuple[str, str, Any]:
        """Task, channel, value."""
        return self.place[1], self.channel, codec.load_value(self.blob)


def writes_of(found: Sequence[bytes]) -> list[PendingWrite]:
    """The writes of one checkpoint by task path, task and slot."""
    writes = []
    for place in range(0, len(found), _WRITE_PARTS):
        task, path, idx, channel, run, kind, data = found[place : place + _WRITE_PARTS]
        writes.append(
            PendingWrite(
                (path.decode(), task.decode(), int(idx)),
                channel.decode(),
                run.decode(),
                Blob(kind.decode(), data),
            )
        )
    return sorted(writes, key=lambda write: write.place)


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint as read back, and what the next put may build on."""

    stored: Stored
    known: Known


def checkpoint_of(
    codec: Codec, data: bytes, chunks: Mapping[bytes, Blob]
) -> tuple[Header, Checkpoint, Manifest]:
    """One stored checkpoint, put together.

    Raises:
        InvariantViolated: a chunk is missing, or the format is of a later release.
    """
    header = header_of(data)
    stored_format, kind, body, _ = ormsgpack.unpackb(data[header.end :])
    checkpoint, manifest = codec.unpack(
        stored_format, Blob(kind, body), header.names, chunks
    )
    return header, checkpoint, manifest


def seen_of(codec: Codec, thread_id: str, found: Sequence[Any]) -> Iterator[Seen]:
    """Checkpoints with their writes, out of what `read` of `reads.lua` gives."""
    rows, chunks = found[0], chunks_of(codec, found[1])
    for ns, id_, data, writes in rows:
        header, checkpoint, manifest = checkpoint_of(codec, data, chunks)
        pending = writes_of(writes)
        stored = Stored(
            thread_id=thread_id,
            ns=ns.decode(),
            checkpoint=checkpoint,
            metadata=header.metadata,
            parent_id=header.parent or None,
            ordinal=header.ordinal,
            run_id=header.run_id,
            writes=[write.loaded(codec) for write in pending],
            write_runs=[UUID(write.run) if write.run else None for write in pending],
        )
        yield Seen(stored, Known(ns.decode(), id_.decode(), EPOCH, manifest))
