"""Reads values and open questions out of a stored checkpoint, without entering it.

A checkpoint holds what each channel stored. A graph's channels turn that back into
values; for a graph that is not at hand the stored form itself is shown, which is the
same for every usual channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langgraph.channels.base import BaseChannel
from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.errors import EmptyChannelError
from langgraph.types import Interrupt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from threadmill.checkpoints.base import Stored
    from threadmill.engine.graph_schemas import CompiledGraph
    from threadmill.stores.records import Json

INTERRUPT: Final = "__interrupt__"
#: Writes under this id are the superstep's input, not some task's doing.
NULL_TASK: Final = "00000000-0000-0000-0000-000000000000"
#: What happened to a task, as opposed to what it produced.
CONTROL: Final = frozenset(WRITES_IDX_MAP) | {"__error_source_node__"}


def values_of(graph: CompiledGraph, stored: Stored, names: str | Sequence[str]) -> Any:
    """The values of some channels; of one channel its bare value, None if empty.

    Args:
        graph: whose channels they are.
        stored: a checkpoint of that graph.
        names: as LangGraph gives them: one name for a bare value, several for a dict.
    """
    held = stored.checkpoint["channel_values"]
    if isinstance(names, str):
        return dict(_read(graph, held, (names,))).get(names)
    return dict(_read(graph, held, names))


def needs_history(graph: CompiledGraph, names: str | Iterable[str]) -> bool:
    """Whether some channel stores differences only, which a checkpoint cannot tell."""
    names = (names,) if isinstance(names, str) else names
    return any(hasattr(graph.channels.get(name), "replay_writes") for name in names)


def raw_values(stored: Stored) -> Json:
    """The stored values of all channels that are not LangGraph's own."""
    held: Mapping[str, Any] = stored.checkpoint["channel_values"]
    return {
        name: value
        for name, value in held.items()
        if not name.startswith("__") and ":" not in name
    }


def open_interrupts(
    writes: Iterable[tuple[str, str, Any]],
) -> dict[str, list[Interrupt]]:
    """The questions, by task, that still wait for an answer."""
    writes = list(writes)
    done = finished_tasks(writes)
    found: dict[str, list[Interrupt]] = {}
    for task_id, channel, value in writes:
        if channel != INTERRUPT or task_id in done:
            continue
        asked = value if isinstance(value, list | tuple) else [value]
        found.setdefault(task_id, []).extend(asked)
    return found


def finished_tasks(writes: Iterable[tuple[str, str, Any]]) -> set[str]:
    """The tasks whose result is among the pending writes."""
    return {
        task_id
        for task_id, channel, _ in writes
        if task_id != NULL_TASK and channel not in CONTROL
    }


def interrupt_json(interrupt: Interrupt | Any) -> Json:
    """A question as clients see it."""
    if not isinstance(interrupt, Interrupt):
        return {"value": interrupt, "id": None}
    shown: Json = {"value": interrupt.value, "id": interrupt.id}
    # Newer LangGraphs have it; their streams show it, also if there is none.
    if hasattr(interrupt, "response_schema"):
        shown["response_schema"] = interrupt.response_schema
    return shown


def _read(
    graph: CompiledGraph, held: Mapping[str, Any], names: Iterable[str]
) -> Iterator[tuple[str, Any]]:
    for name in names:
        channel = graph.channels.get(name)
        if not isinstance(channel, BaseChannel):
            continue
        try:
            if name in held:
                channel = channel.from_checkpoint(held[name])
            yield name, channel.get()
        except EmptyChannelError:
            continue
