"""Use-case: why is this run not moving?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from threadmill.domain.why import Answer, why

if TYPE_CHECKING:
    from uuid import UUID

    from threadmill.domain.run import RunStatus
    from threadmill.stores.operations import Explanations
    from threadmill.stores.records import Json


@dataclass(frozen=True, slots=True)
class Explanation:
    """A run's status and why it is not moving, of one moment."""

    run_id: UUID
    thread_id: UUID
    graph_id: str
    status: RunStatus
    answer: Answer

    def as_json(self) -> Json:
        """The same as JSON values."""
        return {
            "run_id": str(self.run_id),
            "thread_id": str(self.thread_id),
            "graph_id": self.graph_id,
            "status": self.status.value,
            "reason": self.answer.reason.value,
            "sentence": self.answer.sentence,
            "details": dict(self.answer.details),
        }


class Explain:
    """Explains runs.

    Args:
        explanations: where the facts are.
        silent_seconds: a worker that was not seen for so long does not count as alive.
    """

    def __init__(self, explanations: Explanations, *, silent_seconds: float) -> None:
        self._explanations = explanations
        self._silent_seconds = silent_seconds

    async def __call__(self, tenant: str, run_id: UUID) -> Explanation:
        """Why the run is not moving; it reads and changes nothing.

        Raises:
            NotFound: no such run.
        """
        facts = await self._explanations.facts(tenant, run_id)
        run = facts.run
        return Explanation(
            run.run_id,
            run.thread_id,
            run.graph_id,
            run.status,
            why(facts, silent_seconds=self._silent_seconds),
        )
