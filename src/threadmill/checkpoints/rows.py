"""Rows become checkpoints again.

A read returns three kinds of rows at once: checkpoints, their pending writes, and the
chunks of all of them, each once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threadmill.checkpoints.base import Stored
from threadmill.checkpoints.compression import Blob
from threadmill.checkpoints.known import Known

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langgraph.checkpoint.base import Checkpoint

    from threadmill.checkpoints.codec import Codec
    from threadmill.checkpoints.packing import Manifest
    from threadmill.drivers.postgres.connection import Row


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint as read back, and what it shares.

    Args:
        known: what the next put may build on; None if nothing.
    """

    stored: Stored
    known: Known | None


def stored_of(codec: Codec, rows: Sequence[Row]) -> Iterator[Seen]:
    """Puts checkpoints together with their writes and chunks, in the order of rows."""
    writes: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["ordinal"] is None and row["name"] is None:
            writes[_key(row)].append(row)
    chunks = chunks_of(codec, rows)
    for row in rows:
        if row["ordinal"] is None:
            continue
        mine = writes[_key(row)]
        checkpoint, manifest = checkpoint_of(
            codec, row, chunks.get(row["thread_id"], {})
        )
        stored = Stored(
            thread_id=row["thread_id"],
            ns=row["ns"],
            checkpoint=checkpoint,
            metadata=row["metadata"],
            parent_id=row["parent_id"],
            ordinal=row["ordinal"],
            run_id=row["run_id"],
            writes=[write_of(codec, write) for write in mine],
            write_runs=[write["run_id"] for write in mine],
        )
        epoch = row["gc_epoch"]
        known = None
        if epoch is not None and manifest.names:
            known = Known(
                row["ns"],
                row["checkpoint_id"],
                epoch,
                manifest,
                is_away=row.get("is_away", False),
            )
        yield Seen(stored, known)


def chunks_of(codec: Codec, rows: Sequence[Row]) -> Mapping[str, Mapping[bytes, Blob]]:
    """The chunks among these rows, by thread and name."""
    chunks: defaultdict[str, dict[bytes, Blob]] = defaultdict(dict)
    for row in rows:
        if row["name"] is not None:
            stored = Blob(row["type"], row["value"])
            chunks[row["thread_id"]][row["name"]] = codec.chunk(stored)
    return chunks


def checkpoint_of(
    codec: Codec, row: Row, chunks: Mapping[bytes, Blob]
) -> tuple[Checkpoint, Manifest]:
    """The checkpoint of one row."""
    body = Blob(row["type"], row["value"])
    return codec.unpack(row["format"], body, row["chunks"], chunks)


def write_of(codec: Codec, row: Row) -> tuple[str, str, Any]:
    """The pending write of one row: task, channel, value."""
    value = codec.load_value(Blob(row["type"], row["value"]))
    return row["task_id"], row["channel"], value


def _key(row: Row) -> tuple[str, str, str]:
    return row["thread_id"], row["ns"], row["checkpoint_id"]
