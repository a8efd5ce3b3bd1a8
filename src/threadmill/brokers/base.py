"""Port of hints.

A hint says "look again": it carries ids, never payload, and may be lost, doubled or
late without harm, because every process also looks by itself. Publishing therefore
never waits and never fails the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from uuid import UUID


class Hints(Protocol):
    """Publishes hints; called after the commit that they are about."""

    def ready(self, graph_id: str) -> None:
        """An activation of this graph waits for a worker."""
        ...

    def moved(self, tenant: str, thread_id: UUID) -> None:
        """A thread has new events, or one of its runs has ended."""
        ...

    def stop(self, activation_id: UUID, token: int) -> None:
        """An activation was cancelled: whoever runs it may stop."""
        ...


class HintReceiver(Protocol):
    """What a process does on hints; every method returns at once."""

    def on_ready(self, graph_id: str | None) -> None:
        """None: hints may have been missed, look at everything."""
        ...

    def on_moved(self, tenant: str | None, thread_id: UUID | None) -> None:
        """None: hints may have been missed, look at everything."""
        ...

    def on_stop(self, activation_id: UUID, token: int) -> None:
        """The activation was cancelled."""
        ...
