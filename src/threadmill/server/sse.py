"""Server-sent events, framed as LangGraph's clients are used to: with CRLF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from threadmill.streams.base import Event

HEARTBEAT: Final = b": heartbeat\r\n\r\n"
MEDIA_TYPE: Final = "text/event-stream; charset=utf-8"
# A line break ends a field: in a name (a node's, say) it becomes a space.
_ONE_LINE: Final = str.maketrans("\r\n", "  ")


def frame(event: str, data: str, event_id: str | None = None) -> bytes:
    """One event.

    Args:
        event: its name.
        data: JSON text on one line.
        event_id: what a client sends back as Last-Event-ID to go on after it.
    """
    name = event.translate(_ONE_LINE)
    id_line = "" if event_id is None else f"id: {event_id}\r\n"
    return f"event: {name}\r\ndata: {data}\r\n{id_line}\r\n".encode()


def frames(events: Iterable[Event], *, ids: bool) -> bytes:
    """Events of the log, with their ids if the client may come back with them."""
    return b"".join(frame(e.event, e.data, e.id if ids else None) for e in events)
