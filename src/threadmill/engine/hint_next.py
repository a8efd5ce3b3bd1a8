"""Tells workers of the run that a freed thread goes on with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.brokers.base import Hint

if TYPE_CHECKING:
    from threadmill.brokers.base import Hints
    from threadmill.stores.records import Next


def hint_next(hints: Hints, goes_on: Next | None) -> None:
    """Hints that a run waits for a worker; nothing if no run goes on."""
    if goes_on is not None:
        hints.ready(
            Hint(
                goes_on.graph_id,
                goes_on.tenant,
                goes_on.thread_id,
                labels=goes_on.labels,
            )
        )
