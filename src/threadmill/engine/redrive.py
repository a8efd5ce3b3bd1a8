"""Puts a run that was given up back into its thread's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.brokers.base import Hint

if TYPE_CHECKING:
    from uuid import UUID

    from threadmill.brokers.base import Hints
    from threadmill.stores.operations import DeadLetters
    from threadmill.stores.records import Run


class Redrive:
    """Redrives dead letters.

    Args:
        dead_letters: where they are.
        hints: told after the commit that there is work.
        queue_max: runs that may wait on one thread.
    """

    def __init__(
        self, dead_letters: DeadLetters, hints: Hints, *, queue_max: int
    ) -> None:
        self._dead_letters = dead_letters
        self._hints = hints
        self._queue_max = queue_max

    async def __call__(self, tenant: str, run_id: UUID) -> Run:
        """Puts the run back as the last of its thread; its attempts begin anew.

        Whether its message counts once is looked after: see `DeadLetters.redrive`.
        Safe to repeat: whoever comes second finds no dead letter.

        Raises:
            NotFound: the run is no dead letter. Conflict: its thread has gone on since.
            ThreadBusy: other runs of the thread would come first. Overloaded: too many
            runs wait.
        """
        redriven = await self._dead_letters.redrive(
            tenant, run_id, queue_max=self._queue_max
        )
        run = redriven.run
        if redriven.starts:
            self._hints.ready(
                Hint(run.graph_id, tenant, run.thread_id, labels=run.labels)
            )
        self._hints.moved(tenant, run.thread_id)
        return run
