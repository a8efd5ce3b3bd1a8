"""Ends a run from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.engine.ready import hint_next

if TYPE_CHECKING:
    from uuid import UUID

    from threadmill.brokers.base import Hints
    from threadmill.stores.base import Runs
    from threadmill.stores.records import Run


class Cancel:
    """Cancels runs.

    Args:
        runs: where runs are.
        hints: told after the commit: who must stop, and who may go on.
    """

    def __init__(self, runs: Runs, hints: Hints) -> None:
        self._runs = runs
        self._hints = hints

    async def __call__(self, tenant: str, thread_id: UUID, run_id: UUID) -> Run:
        """Ends a pending or running run as interrupted; its checkpoints stay.

        Whoever runs it can commit nothing more from then on. The next queued run of
        the thread goes on.

        Raises:
            NotFound: no such run, or it has ended already.
        """
        cancelled = await self._runs.cancel(tenant, thread_id, run_id)
        for activation_id, token in cancelled.activations:
            self._hints.stop(activation_id, token)
        self._hints.moved(tenant, thread_id)
        hint_next(self._hints, cancelled.next)
        return cancelled.run
