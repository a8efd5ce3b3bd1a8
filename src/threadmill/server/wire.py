"""Records as clients see them: LangGraph's JSON shapes, to the letter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from langgraph.types import PregelTask, StateSnapshot
from starlette.responses import Response

from threadmill.engine.values import interrupt_json
from threadmill.engine.wire_json import encode_bytes
from threadmill.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from threadmill.domain.retention import Ttl
    from threadmill.engine.states import Glance
    from threadmill.stores.records import Assistant, Json, Run, Thread

_CHECKPOINT = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")


def json_response(
    content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content`, whatever it holds, as a JSON response."""
    return Response(
        encode_bytes(content),
        status_code=status,
        headers=None if headers is None else dict(headers),
        media_type="application/json",
    )


class Page:
    """A JSON array, item by item, as long as one response may be.

    Args:
        bytes_max: of all of them together (THREADMILL_RESPONSE_BYTES_MAX).
        select: the fields to show; all without one.
    """

    def __init__(self, bytes_max: int, select: Sequence[str] | None = None) -> None:
        self._bytes_max = bytes_max
        self._select = select
        self._items: list[bytes] = []
        self._bytes = 0

    def add(self, item: Json) -> None:
        """The next item.

        Raises:
            InvalidRequest: there is no room for it; nothing is sent.
        """
        encoded = encode_bytes(picked(item, self._select))
        self._bytes += len(encoded)
        if self._items and self._bytes > self._bytes_max:
            msg = (
                f"the first {len(self._items) + 1} of this page take {self._bytes} "
                f"bytes, more than THREADMILL_RESPONSE_BYTES_MAX ({self._bytes_max}); "
                "ask for fewer with a smaller 'limit', or raise the setting"
            )
            raise InvalidRequest(msg)
        self._items.append(encoded)

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """What was added, as a response."""
        return Response(
            b"[" + b",".join(self._items) + b"]",
            headers=None if headers is None else dict(headers),
            media_type="application/json",
        )


def run_json(run: Run) -> Json:
    """A run."""
    return {
        "run_id": str(run.run_id),
        "thread_id": str(run.thread_id),
        "assistant_id": str(run.assistant_id),
        "created_at": _instant(run.created_at),
        "updated_at": _instant(run.updated_at),
        "status": str(run.status),
        "metadata": run.metadata,
        "kwargs": run.kwargs,
        "multitask_strategy": run.multitask_strategy,
        "langsmith_session_name": None,
    }


def thread_json(thread: Thread, glance: Glance) -> Json:
    """A thread with what its head shows."""
    return {
        "thread_id": str(thread.thread_id),
        "created_at": _instant(thread.created_at),
        "updated_at": _instant(thread.updated_at),
        "state_updated_at": _instant(thread.state_updated_at),
        "metadata": thread.metadata,
        "status": str(thread.status),
        "config": thread.config,
        "values": glance.values,
        "interrupts": glance.interrupts,
        "error": thread.error,
    }


def ttl_json(thread: Thread, rule: tuple[str, Ttl] | None) -> Json | None:
    """How long the thread is kept, and by whose rule; None for ever."""
    if rule is None or rule[1].minutes is None:
        return None
    whose, ttl = rule
    expires_at = thread.updated_at + timedelta(minutes=rule[1].minutes)
    return {
        "strategy": ttl.strategy.value,
        "ttl_minutes": ttl.minutes,
        "expires_at": _instant(expires_at),
        "rule": whose,
    }


def assistant_json(assistant: Assistant) -> Json:
    """An assistant."""
    return {
        "assistant_id": str(assistant.assistant_id),
        "graph_id": assistant.graph_id,
        "config": assistant.config,
        "context": assistant.context,
        "metadata": assistant.metadata,
        "name": assistant.name,
        "description": assistant.description,
        "version": assistant.version,
        "created_at": _instant(assistant.created_at),
        "updated_at": _instant(assistant.updated_at),
    }


def state_json(state: StateSnapshot) -> Json:
    """A thread's state; subgraphs' states stand under their tasks."""
    checkpoint = _checkpoint(state.config)
    parent = _checkpoint(state.parent_config)
    return {
        "values": state.values,
        "next": list(state.next),
        "tasks": [_task_json(task) for task in state.tasks],
        "metadata": state.metadata or {},
        "created_at": state.created_at,
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": [interrupt_json(i) for i in state.interrupts],
        "checkpoint_id": checkpoint["checkpoint_id"] if checkpoint else None,
        "parent_checkpoint_id": parent["checkpoint_id"] if parent else None,
    }


def updated_json(config: Mapping[str, Any]) -> Json:
    """The answer to a state update: where the new checkpoint is."""
    checkpoint = _checkpoint(config)
    return {
        "checkpoint": checkpoint,
        "configurable": checkpoint,
        "checkpoint_id": checkpoint["checkpoint_id"] if checkpoint else None,
    }


def picked(item: Json, select: Sequence[str] | None) -> Json:
    """An item reduced to the fields in `select`; whole without one."""
    return {k: v for k, v in item.items() if k in select} if select else item


def _task_json(task: PregelTask) -> Json:
    inner = task.state
    nested = state_json(inner) if isinstance(inner, StateSnapshot) else None
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": None if task.error is None else _error_text(task.error),
        "interrupts": [interrupt_json(i) for i in task.interrupts],
        "checkpoint": None if nested or inner is None else _place(inner),
        "state": nested,
        "result": task.result,
    }


def _error_text(error: object) -> str:
    return repr(error) if isinstance(error, BaseException) else str(error)


def _place(config: Any) -> Json:
    """Where a subgraph's state can be asked for."""
    configurable = config.get("configurable", {})
    return {k: configurable[k] for k in _CHECKPOINT if k in configurable}


def _checkpoint(config: Mapping[str, Any] | None) -> Json | None:
    if config is None:
        return None
    configurable = config.get("configurable", {})
    found = {
        "thread_id": configurable.get("thread_id"),
        "checkpoint_ns": configurable.get("checkpoint_ns", ""),
        "checkpoint_id": configurable.get("checkpoint_id"),
    }
    if configurable.get("checkpoint_map"):
        found["checkpoint_map"] = configurable["checkpoint_map"]
    return found


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()
