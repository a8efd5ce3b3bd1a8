"""How checkpoints become rows, and rows become checkpoints again.

Format 1 stores a checkpoint whole, as one blob of LangGraph's own serializer. The
format's number is stored with each checkpoint and reading dispatches on it, so that a
later format can live in the same table.

What cannot be stored is refused by name: the channel, and the type of the value. There
is no pickle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from threadmill.errors import InvariantViolated, StateUnserializable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langgraph.checkpoint.base import Checkpoint
    from langgraph.checkpoint.serde.base import SerializerProtocol

FORMAT = 1
STATE_BYTES_MAX = 64 * 1024 * 1024

# How deep the search for the value at fault goes; beyond it, its container is named.
_SEARCH_DEPTH_MAX = 20


@dataclass(frozen=True, slots=True)
class Blob:
    """A serialized value and the name that the serializer gave its encoding."""

    type: str
    data: bytes


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
    """

    def __init__(
        self,
        serde: SerializerProtocol | None = None,
        *,
        state_bytes_max: int = STATE_BYTES_MAX,
    ) -> None:
        self.serde = serde or JsonPlusSerializer()
        self.state_bytes_max = state_bytes_max

    def checkpoint(self, checkpoint: Checkpoint) -> Blob:
        """The whole checkpoint in one blob.

        Raises:
            StateUnserializable: names the channel and the type, or the limit.
        """
        try:
            blob = Blob(*self.serde.dumps_typed(checkpoint))
        except Exception as error:
            raise self._culprit(checkpoint["channel_values"], error) from error
        self._check_size(len(blob.data), "the checkpoint")
        return blob

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
            rows[idx] = WriteRow(idx, channel, blob)
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

    def load_checkpoint(self, stored_format: int, blob: Blob) -> Checkpoint:
        """The checkpoint that was stored in this format.

        Raises:
            InvariantViolated: a format of a later release.
        """
        if stored_format != FORMAT:
            msg = (
                f"checkpoint format {stored_format} is of a later release; "
                "upgrade threadmill"
            )
            raise InvariantViolated(msg)
        checkpoint: Checkpoint = self.serde.loads_typed((blob.type, blob.data))
        return checkpoint

    def load_value(self, blob: Blob) -> Any:
        """The value of a pending write, or a single one."""
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
