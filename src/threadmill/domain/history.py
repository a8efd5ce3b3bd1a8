"""What a search of histories asks for, and whether a checkpoint is it."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from threadmill.domain.paths import Scalar

LIMIT_MAX: Final = 200
SCAN_MAX: Final = 20_000
THREADS_MAX: Final = 100

_ORDERS: Final[Mapping[str, Callable[[float, float], bool]]] = MappingProxyType(
    {
        "above": operator.gt,
        "at_least": operator.ge,
        "below": operator.lt,
        "at_most": operator.le,
    }
)
COMPARISONS: Final = ("equals", *_ORDERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueMatch:
    """What a path of the state must lead to.

    Args:
        path: where it is.
        comparison: one of `COMPARISONS`; None for any value.
        operand: what it is compared with.
        changed: only where it was another value, or none, at the parent.
    """

    path: str
    comparison: str | None = None
    operand: Scalar | None = None
    changed: bool = False

    def fits(self, found: Scalar | None) -> bool:
        """Whether a value is meant, wherever it came from."""
        if found is None or self.comparison is None or self.operand is None:
            return found is not None
        if self.comparison == "equals":
            return found.text == self.operand.text
        if found.number is None or self.operand.number is None:
            return False
        return _ORDERS[self.comparison](found.number, self.operand.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQuery:
    """Which checkpoints of root graphs are searched for; None does not filter.

    Args:
        metadata: contained in the thread's.
        thread_ids: only of these threads.
        graph_id: only of threads of this graph.
        since: committed at this moment or later.
        until: committed before this moment.
        node: this node's writes led to it.
        run_id: of this run.
        failed: a run ended in an error at it, or a task failed.
        error: a part of that error's text, in any case.
        source: input, loop, update or fork.
        value: what a path of the state leads to.
    """

    metadata: Mapping[str, Any] | None = None
    thread_ids: Sequence[UUID] | None = None
    graph_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    node: str | None = None
    run_id: UUID | None = None
    failed: bool = False
    error: str | None = None
    source: str | None = None
    value: ValueMatch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A checkpoint as a search shows it: no state, but the value that was asked for.

    Args:
        nodes: whose writes led to it.
        error: of the run that ended here, or of a task that failed here.
        value: as JSON, if a path was asked for.
    """

    thread_id: UUID
    checkpoint_id: str
    parent_id: str | None
    run_id: UUID | None
    graph_id: str | None
    source: str | None
    step: int | None
    created_at: datetime
    nodes: Sequence[str] = ()
    error: str | None = None
    value: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As clients and the command line see it."""
        return {
            "thread_id": str(self.thread_id),
            "checkpoint_id": self.checkpoint_id,
            "parent_checkpoint_id": self.parent_id,
            "run_id": None if self.run_id is None else str(self.run_id),
            "graph_id": self.graph_id,
            "source": self.source,
            "step": self.step,
            "created_at": self.created_at.astimezone(UTC).isoformat(),
            "nodes": list(self.nodes),
            "error": self.error,
            "value": None if self.value is None else json.loads(self.value),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a search.

    Args:
        scanned: checkpoints that were looked at for it.
        place: where to go on; None when there is no more.
    """

    moments: Sequence[Moment] = field(default_factory=tuple)
    scanned: int = 0
    place: Sequence[Any] | None = None


def is_meant(moment: Moment, query: HistoryQuery) -> bool:
    """Whether it is what is searched for, its value and its thread aside."""
    failed = query.failed or query.error is not None
    text = (query.error or "").lower()
    return (
        (query.since is None or moment.created_at >= query.since)
        and (query.until is None or moment.created_at < query.until)
        and query.run_id in {None, moment.run_id}
        and query.source in {None, moment.source}
        and (query.node is None or query.node in moment.nodes)
        and (not failed or (moment.error is not None and text in moment.error.lower()))
    )
