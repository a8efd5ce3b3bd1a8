"""Use-case: prune threads because somebody asks for it, not because a rule does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from threadmill.domain.retention import Strategy
from threadmill.stores.retention import Freed, Mark

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    from threadmill.stores.retention import Idle, Pruning, RetentionStore

PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOrder:
    """What is to be pruned, and how.

    Args:
        strategy: what is to be left of each thread.
        idle_minutes: only threads without a change for so long.
        graph_id: only threads of this graph.
        dry_run: only say what would go.
    """

    strategy: Strategy
    idle_minutes: float = 0.0
    graph_id: str | None = None
    dry_run: bool = False


class Prune:
    """Prunes threads at rest on demand.

    Args:
        store: finds them.
        pruning: prunes each.
    """

    def __init__(self, store: RetentionStore, pruning: Pruning) -> None:
        self._store = store
        self._pruning = pruning

    async def these(
        self,
        tenant: str,
        thread_ids: Sequence[UUID],
        strategy: Strategy,
        *,
        dry_run: bool = False,
    ) -> Freed:
        """Prunes some threads. One that is not at rest is left alone.

        Args:
            tenant: whose.
            thread_ids: which; each counts once.
            strategy: what is to be left of each.
            dry_run: only say what would go.
        """
        work = self._pruning.weigh if dry_run else self._pruning.prune
        freed = Freed()
        for thread_id in dict.fromkeys(thread_ids):
            freed += await work(tenant, thread_id, strategy) or Freed()
        return freed

    async def __call__(self, tenant: str, order: PruneOrder) -> AsyncIterator[Freed]:
        """Prunes all that the order is for; says after each page what is freed so far.

        It may be stopped and called again: what is done is done. A thread that changes
        while it works is left alone.
        """
        freed = Freed()
        after = None
        while True:
            page = await self._store.idle(
                tenant, minutes=order.idle_minutes, after=after, limit=PAGE
            )
            for thread in page:
                if _is_meant(thread, order):
                    freed += await self._one(tenant, thread, order)
            yield freed
            if len(page) < PAGE:
                return
            after = Mark(page[-1].updated_at, page[-1].thread_id)

    async def _one(self, tenant: str, thread: Idle, order: PruneOrder) -> Freed:
        if order.dry_run:
            weigh = self._pruning.weigh
            return await weigh(tenant, thread.thread_id, order.strategy) or Freed()
        done = await self._pruning.prune(
            tenant, thread.thread_id, order.strategy, as_of=thread.updated_at
        )
        return done or Freed()


def _is_meant(thread: Idle, order: PruneOrder) -> bool:
    if thread.busy or (order.graph_id not in (None, thread.graph_id)):
        return False
    needless = thread.pruned or thread.interrupted
    return order.strategy is Strategy.DELETE or not needless
