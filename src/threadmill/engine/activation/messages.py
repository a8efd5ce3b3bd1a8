"""The two message stream modes as their events.

`messages-tuple` sends every chunk as it comes; `messages` sends accumulated messages,
so the chunks of one message are added up here. When both are asked for, the tuples
win (LangGraph's run stream does the same).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    message_chunk_to_message,
)

from threadmill.engine.wire_json import encode
from threadmill.streams.base import NewEvent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# One run may stream many messages; of each only the accumulated chunk is kept.
_OPEN_MAX = 256


class MessageEvents:
    """Turns LangGraph's (message, metadata) pairs into events of one attempt."""

    def __init__(self, *, as_tuples: bool) -> None:
        self._as_tuples = as_tuples
        self._open: dict[str, BaseMessageChunk] = {}
        self._announced: set[str] = set()

    def events(
        self, suffix: str, message: BaseMessage, metadata: Mapping[str, Any]
    ) -> Iterator[NewEvent]:
        """The events that one chunk or message causes.

        Args:
            suffix: appended to the event's name: the subgraph's namespace.
            message: a chunk of a message, or a whole one.
            metadata: LangGraph's metadata of the node that it comes from.
        """
        if self._as_tuples:
            yield NewEvent(f"messages{suffix}", encode([message, metadata]))
            return
        key = message.id or ""
        if key not in self._announced:
            self._announced.add(key)
            yield NewEvent(
                f"messages/metadata{suffix}", encode({key: {"metadata": metadata}})
            )
        if isinstance(message, BaseMessageChunk):
            partial = message_chunk_to_message(self._add(key, message))
            yield NewEvent(f"messages/partial{suffix}", encode([partial]))
        else:
            self._open.pop(key, None)
            yield NewEvent(f"messages/complete{suffix}", encode([message]))

    def _add(self, key: str, chunk: BaseMessageChunk) -> BaseMessageChunk:
        known = self._open.pop(key, None)
        whole = chunk if known is None else known + chunk
        while len(self._open) >= _OPEN_MAX:
            self._open.pop(next(iter(self._open)))
        self._open[key] = whole
        return whole
