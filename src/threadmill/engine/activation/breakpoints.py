"""Static breakpoints, for a run that was lost or handed over right at one.

LangGraph pauses between committing a checkpoint and running what comes next. Whoever
enters there without input would pass the breakpoint, so it is looked at before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from langgraph.pregel import Pregel

from threadmill.checkpoints.base import Stored

_START: Final = "__start__"
_ALL: Final = "*"


async def is_at_breakpoint(
    graph: Pregel[Any, Any, Any, Any],
    kwargs: Mapping[str, Any],
    head: Stored,
    *,
    out_of_steps: bool,
) -> bool:
    """Whether the run pauses at its head.

    Args:
        graph: bound to a saver that reads the thread.
        kwargs: the run's wire form.
        head: put by this very run.
        out_of_steps: the run may not go on; LangGraph gives up before it pauses for
            what would come next.
    """
    before = kwargs.get("interrupt_before") or graph.interrupt_before_nodes
    after = kwargs.get("interrupt_after") or graph.interrupt_after_nodes
    source = head.metadata.get("source")
    # A checkpoint that a fork or a resuming command made has passed its breakpoint.
    at: list[tuple[str | Sequence[str], str]] = []
    if before and not out_of_steps and source in {"loop", "input"}:
        at.append((before, head.checkpoint["id"]))
    if after and source == "loop" and head.parent_id:
        at.append((after, head.parent_id))
    for breakpoints, checkpoint_id in at:
        if _hits(breakpoints, await _nodes_at(graph, head, checkpoint_id)):
            return True
    return False


async def _nodes_at(
    graph: Pregel[Any, Any, Any, Any], head: Stored, checkpoint_id: str
) -> Sequence[str]:
    state = await graph.aget_state(
        {
            "configurable": {
                "thread_id": head.thread_id,
                "checkpoint_id": checkpoint_id,
            }
        }
    )
    return [task.name for task in state.tasks if task.name != _START]


def _hits(breakpoints: str | Sequence[str], nodes: Sequence[str]) -> bool:
    if breakpoints == _ALL:
        return bool(nodes)
    return any(node in breakpoints for node in nodes)
