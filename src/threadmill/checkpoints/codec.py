"""How checkpoints become rows, and rows become checkpoints again.

Format 1 stores a checkpoint whole, as one blob of LangGraph's own serializer. Format 2
shares chunks between the checkpoints of a thread (`packing`). The format's number is
stored with each checkpoint and reading dispatches on it: both live in the same table.
Pending writes are stored by themselves, compressed where that pays.

What cannot be stored is refused by name: the channel, and the type of the value. There
is no pickle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from threadmill.checkpoints.compression import Blob, expanded, squeezed
from threadmill.checkpoints.packing import (
    FORMAT,
    NOTHING,
    WHOLE,
    Manifest,
    Packed,
    Packing,
    ValueFailed,
    unpack,
)
from threadmill.errors import InvariantViolated, StateUnserializable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langgraph.checkpoint.base import Checkpoint
    from langgraph.checkpoint.serde.base import SerializerProtocol

STATE_BYTES_MAX = 64 * 1024 * 1024

# How deep the search for the value at fault goes; beyond it, its container is named.
_SEARCH_DEPTH_MAX = 20


@dataclass(frozen=True, slots=True)
class WriteRow:
    """One pending write: its slot among the writes of its task, and its value."""

    idx: int
    channel: str
    blob: Blob


class Codec:
    """Encodes and decodes with one serializer.

    Args:
        serde: LangGraph's serializer; without one, its default without pickle.
        state_bytes_max: the largest checkpoint and the largest single write, in
            bytes (the setting THREADMILL_STATE_BYTES_MAX).
        whole: write format 1, for as long as others can read nothing else.
    """

    def __init__(
        self,
        serde: SerializerProtocol | None = None,
        *,
        state_bytes_max: int = STATE_BYTES_MAX,
        whole: bool = False,
    ) -> None:
        self.serde = serde or JsonPlusSerializer()
        self.state_bytes_max = state_bytes_max
        self.whole = whole

    def pack(
        self,
        checkpoint: Checkpoint,
        before: Manifest = NOTHING,
        there: frozenset[bytes] = frozenset(),
        carried: frozenset[str] = frozenset(),
    ) -> Packed:
        """The checkpoint as it is stored, and the chunks to send along.

        Args:
            checkpoint: complete with channel values; every value is looked at but
                those of `carried`.
            before: the chunks of the checkpoint that it was made from.
            there: names of the chunks that need not be sent.
            carried: channels that hold what they held there; `before` is exactly the
                parent's.

        Raises:
            StateUnserializable: names the channel and the type, or the limit.
        """
        try:
            if self.whole:
                packed = self._packed_whole(checkpoint)
            else:
                packing = Packing(self.serde, before, there, carried)
                packed = packing.pack(checkpoint)
        except ValueFailed as failed:
            value = checkpoint["channel_values"][failed.channel]
            raise self._culprit({failed.channel: value}, failed.error) from failed.error
        except Exception as error:
            channels = checkpoint["channel_values"] if self.whole else {}
            raise self._culprit(channels, error) from error
        self._check_size(packed.size, "the checkpoint")
        return packed

    def _packed_whole(self, checkpoint: Checkpoint) -> Packed:
        body = Blob(*self.serde.dumps_typed(checkpoint))
        return Packed(body, (), {}, NOTHING, size=len(body.data), format=WHOLE)

    def writes(self, writes: Sequence[tuple[str, Any]]) -> list[WriteRow]:
        """Rows for a task's writes, one per slot.

        LangGraph gives ordinary writes their position as slot and some marks (error,
        interrupt, resume) a fixed one. A mark that is given twice is stored once, the
        last one.

        Raises:
            StateUnserializable: names the channel and the type, or the limit.
        """
        rows: dict[int, WriteRow] = {}
        for position, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, position)
            try:
                blob = Blob(*self.serde.dumps_typed(value))
            except Exception as error:
                raise self._culprit({channel: value}, error) from error
            self._check_size(len(blob.data), f"a write to channel '{channel}'")
            rows[idx] = WriteRow(idx, channel, blob if self.whole else squeezed(blob))
        return list(rows.values())

    def value(self, value: Any, what: str) -> Blob:
        """A single value.

        Args:
            value: to store.
            what: how an error names it.

        Raises:
            StateUnserializable: names `what` and the type, or the limit.
        """
        try:
            blob = Blob(*self.serde.dumps_typed(value))
        except Exception as error:
            kind = type(self._innermost(value)).__qualname__
            msg = (
                f"{what} holds a value of type '{kind}' that cannot be stored ({error})"
            )
            raise StateUnserializable(msg) from error
        self._check_size(len(blob.data), what)
        return blob

    def unpack(
        self,
        stored_format: int,
        body: Blob,
        names: Sequence[bytes] = (),
        chunks: Mapping[bytes, Blob] | None = None,
    ) -> tuple[Checkpoint, Manifest]:
        """The checkpoint that was stored in this format, and what it shares.

        Args:
            stored_format: the number that is stored with it.
            body: as stored.
            names: of its chunks, in order, as stored.
            chunks: these by name, from `chunk`.

        Raises:
            InvariantViolated: a format of a later release; a chunk is missing.
        """
        if stored_format == FORMAT:
            return unpack(self.serde, body, names, chunks or {})
        if stored_format == WHOLE:
            checkpoint: Checkpoint = self.serde.loads_typed((body.type, body.data))
            return checkpoint, NOTHING
        msg = (
            f"checkpoint format {stored_format} is of a later release; "
            "upgrade threadmill"
        )
        raise InvariantViolated(msg)

    def chunk(self, stored: Blob) -> Blob:
        """A chunk as `unpack` takes it; expanding it once serves many checkpoints."""
        return expanded(stored)

    def load_value(self, blob: Blob) -> Any:
        """The value of a pending write, or a single one."""
        blob = expanded(blob)
        return self.serde.loads_typed((blob.type, blob.data))

    def _check_size(self, size: int, what: str) -> None:
        if size > self.state_bytes_max:
            msg = (
                f"{what} takes {size} bytes, more than THREADMILL_STATE_BYTES_MAX "
                f"({self.state_bytes_max}); keep large files outside of the state, or "
                "raise the setting"
            )
            raise StateUnserializable(msg)

    def _culprit(
        self, channels: Mapping[str, Any], error: Exception
    ) -> StateUnserializable:
        for channel, value in channels.items():
            if self._fails(value):
                kind = type(self._innermost(value)).__qualname__
                where = f"channel '{channel}' holds a value of type '{kind}'"
                break
        else:
            where = "the state holds a value"
        msg = (
            f"{where} that cannot be stored ({error}); keep plain values, messages, "
            "dataclasses and pydantic models in the state, or annotate the channel "
            "with UntrackedValue"
        )
        return StateUnserializable(msg)

    def _innermost(self, value: Any) -> Any:
        for _ in range(_SEARCH_DEPTH_MAX):
            inner = next((v for v in _items(value) if self._fails(v)), None)
            if inner is None:
                break
            value = inner
        return value

    def _fails(self, value: Any) -> bool:
        try:
            self.serde.dumps_typed(value)
        except Exception:  # noqa: BLE001 - asked for exactly that
            return True
        return False


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value


def encode_json(value: Mapping[str, Any], what: str) -> str:
    """`value` as JSON that a jsonb column takes.

    jsonb knows neither NUL characters nor halves of surrogate pairs. NULs are left out,
    as LangGraph's own helper for metadata does at the top level; lone surrogates become
    question marks, as in LangGraph's serializer.

    Args:
        value: metadata, or a filter over it.
        what: how an error names it.

    Raises:
        StateUnserializable: names the key whose value is not JSON.
    """
    try:
        text = _dump(value)
    except (TypeError, ValueError, RecursionError) as error:
        key = next((k for k, v in value.items() if not _is_json(v)), None)
        msg = f"{what} '{key}' is not JSON ({error})"
        raise StateUnserializable(msg) from error
    # A match may also be an escaped backslash before "u0000": then nothing changes.
    if "\\u0000" in text:
        text = _dump(_without_nul(value))
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _is_json(value: Any) -> bool:
    try:
        _dump(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "")
    if isinstance(value, dict):
        return {_without_nul(k): _without_nul(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nul(v) for v in value]
    return value
