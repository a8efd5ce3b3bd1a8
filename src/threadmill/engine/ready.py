"""What workers are told of work that is ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from threadmill.brokers.base import UNKNOWN_WORK, Hint

if TYPE_CHECKING:
    from threadmill.brokers.base import Hints
    from threadmill.domain.fence import Fence
    from threadmill.stores.records import Next, Run


def hint_of(fence: Fence, run: Run, kind: str, labels: Sequence[str] | None) -> Hint:
    """Something of a run waits for a worker; `labels` None: it is not known which."""
    if labels is None:
        return UNKNOWN_WORK
    return Hint(run.graph_id, fence.tenant, fence.thread_id, kind, labels)


def hint_next(hints: Hints, goes_on: Next | None) -> None:
    """Tells of the run that a freed thread goes on with, if there is one."""
    if goes_on is not None:
        tenant, thread_id = goes_on.tenant, goes_on.thread_id
        hints.ready(Hint(goes_on.graph_id, tenant, thread_id, labels=goes_on.labels))
