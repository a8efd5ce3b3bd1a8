"""How a run shows in LangSmith: one trace for each run, and its entries below it.

LangChain takes each entry for a trace of its own. Here every entry is a child of its
run, whose trace has the run's id and begins when the run was accepted. Both are in the
run's row, so every process derives the same parent and none needs to be told.

LangSmith takes one beginning and one end of each run, and refuses a second one. The
process that begins the run tells the one, and who has stored its end tells the other.
Both are put into the queue of LangSmith's client. What a process that dies has not sent
is lost; nothing here raises, and no run waits for its trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC
from functools import partial
from typing import Any, Final, Self
from uuid import UUID

import structlog
from langchain_core.callbacks import BaseCallbackHandler, Callbacks
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.schemas import Run as Span
from langgraph.errors import GraphDrained
from langsmith.run_helpers import get_tracing_context
from langsmith.run_trees import RunTree
from langsmith.utils import tracing_is_enabled

from threadmill.engine.activation.left import Left, Outcome
from threadmill.engine.activation.stop import StopReason
from threadmill.engine.run_config import metadata_of
from threadmill.stores.records import Run

_log = structlog.get_logger(__name__)

_HANDED_OVER: Final = {"threadmill": "handed over"}
_ENDS: Final = frozenset({Outcome.DONE, Outcome.PAUSED, Outcome.FAILED})
_STOPS: Final = frozenset({StopReason.CANCELLED, StopReason.DEADLINE})


class RunTrace:
    """A run in LangSmith, as one of its entries tells it; nothing if tracing is off.

    Args:
        run: as begun.
        bound: the graph's own callback handlers.
    """

    def __init__(self, run: Run, bound: Callbacks = None) -> None:
        self._run = run
        self._begun = False
        self._tracer: EntryTracer | None = None
        if tracing_is_enabled() is True:
            self._guarded(lambda: self._trace(bound))

    @property
    def callbacks(self) -> list[BaseCallbackHandler]:
        """What is to be told of the entry beside the graph's own handlers."""
        return [] if self._tracer is None else [self._tracer]

    def begin(self) -> None:
        """Tells that the run begins; to be called once for each run."""
        if self._tracer is not None:
            self._begun = True
            self._guarded(self._tracer.root.post)

    def end(self, left: Left) -> None:
        """Tells how the run has ended, once that is stored.

        Args:
            left: how its last entry did; other entries end no run.
        """
        stopped = left.outcome is Outcome.STOPPED and left.reason in _STOPS
        if self._tracer is None or not (stopped or left.outcome in _ENDS):
            return
        error = f"stopped: {left.reason}" if stopped else None
        if left.error is not None:
            error = repr(left.error)
        self._guarded(partial(self._tracer.end_root, error, begun=self._begun))

    def _trace(self, bound: Callbacks) -> None:
        handlers = bound if isinstance(bound, list) else getattr(bound, "handlers", ())
        # LangChain adds none either: two of them would tell everything twice.
        if not any(isinstance(handler, LangChainTracer) for handler in handlers):
            self._tracer = EntryTracer.of(self._run)

    def _guarded(self, tell: Callable[[], object]) -> None:
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - no run is worth its trace
            _log.warning("trace.lost", run=str(self._run.run_id), error=str(error))


class EntryTracer(LangChainTracer):
    """Tells of an entry as a child of its run, and of its leaving as no error.

    Attributes:
        root: the run.
        outputs: of the entry, if it has come to the graph's end; shared by copies.
    """

    root: RunTree
    outputs: list[Any]

    @classmethod
    def of(cls, run: Run) -> Self:
        """A tracer as LangChain would make it, below the run's root."""
        context = get_tracing_context()
        tracer = cls(
            project_name=context["project_name"],
            client=context["client"],
            tags=context["tags"],
            metadata=context["metadata"],
        )
        return tracer.below(_root(run, tracer), [])

    def below(self, root: RunTree, outputs: list[Any]) -> Self:
        """Itself, with a root, and a place for outputs."""
        self.root, self.outputs = root, outputs
        self.order_map[root.id] = (root.trace_id, root.dotted_order)
        return self

    def end_root(self, error: str | None, *, begun: bool) -> None:
        """Tells that the run has ended.

        Args:
            error: what it has failed by.
            begun: its beginning was told here; who else has told it may have died
                before it was sent.
        """
        last = self.outputs[-1] if self.outputs else None
        self.root.end(outputs=_as_dict("output", last), error=error)
        self.root.patch(exclude_inputs=begun)

    def copy_with_metadata_defaults(
        self,
        *,
        metadata: Mapping[str, str] | None = None,
        tags: list[str] | None = None,
    ) -> LangChainTracer:
        """LangChain makes one for each graph that is called."""
        copied = super().copy_with_metadata_defaults(metadata=metadata, tags=tags)
        assert isinstance(copied, type(self))  # noqa: S101 - so it is made
        return copied.below(self.root, self.outputs)

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> Span:
        """What has no parent is the entry."""
        return super().on_chain_start(
            serialized,
            inputs,
            run_id=run_id,
            parent_run_id=parent_run_id or self.root.id,
            **kwargs,
        )

    def on_chain_end(
        self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any
    ) -> Span:
        """Also keeps the run's outputs."""
        if self._is_entry(run_id):
            self.outputs.append(outputs)
        return super().on_chain_end(outputs, run_id=run_id, **kwargs)

    def on_chain_error(
        self, error: BaseException, *, run_id: UUID, **kwargs: Any
    ) -> Span:
        """What LangGraph raises to leave a graph is no error."""
        if isinstance(error, GraphDrained) and self._is_entry(run_id):
            return super().on_chain_end(_HANDED_OVER, run_id=run_id, **kwargs)
        return super().on_chain_error(error, run_id=run_id, **kwargs)

    def _is_entry(self, run_id: UUID) -> bool:
        span = self.run_map.get(str(run_id))
        return span is not None and span.parent_run_id == self.root.id


def _root(run: Run, tracer: LangChainTracer) -> RunTree:
    config, given = run.kwargs.get("config") or {}, run.kwargs.get("input")
    if given is None and run.kwargs.get("command"):
        given = {"command": run.kwargs["command"]}
    project = {"project_name": tracer.project_name} if tracer.project_name else {}
    return RunTree(
        id=run.run_id,
        name=config.get("run_name") or run.graph_id,
        start_time=run.created_at.astimezone(UTC),
        inputs=_as_dict("input", given),
        extra={"metadata": metadata_of(run)},
        tags=list(config.get("tags") or ()),
        ls_client=tracer.client,
        **project,
    )


def _as_dict(name: str, value: Any) -> dict[str, Any]:
    """A value in the form that LangSmith takes."""
    if value is None:
        return {}
    return value if isinstance(value, dict) else {name: value}
