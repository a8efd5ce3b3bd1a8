"""Where a node's code stands, as LangGraph's config tells it.

A node of the thread's own graph is named by its task's id, which every process derives
alike from the same checkpoint. In a graph inside a graph that id is made of a
checkpoint that may not be stored yet when its first node runs: after a crash there it
would be another one. So a task in there is named by its position under the task of
the thread's own graph: the checkpoints of the graphs around its own, and its step, node
and number. Its own graph makes no difference to that, whether it keeps checkpoints or
not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid5

# Set for each task of the thread's own graph, inherited by all that it calls. Keys
# that begin with two underscores stay out of checkpoints and never come from clients.
TASK_KEY: Final = "__threadmill_task"

_TASK_ID: Final = "__pregel_task_id"
_LEVELS: Final = UUID("5b1b6b0e-6d0c-4c6f-9d0a-0d6e5f1b7c21")


@dataclass(frozen=True, slots=True)
class Place:
    """A task, seen from inside.

    Args:
        task: its name; the same in every attempt.
        root_task: the id of the thread's own graph's task that it is part of.
        node: its node's name.
        under: the checkpoints that the name is made of, as (namespace, id); empty for a
            task of the thread's own graph, which only runs on a stored one.
    """

    task: str
    root_task: str
    node: str
    under: Sequence[tuple[str, str]] = ()


def place_of(config: Mapping[str, Any]) -> Place | None:
    """The place that a node's config tells of; None outside of the engine's nodes."""
    configurable: Mapping[str, Any] = config.get("configurable") or {}
    metadata: Mapping[str, Any] = config.get("metadata") or {}
    root, own = configurable.get(TASK_KEY), configurable.get(_TASK_ID)
    if not root or not own:
        return None
    node = str(metadata.get("langgraph_node"))
    if own == root:
        return Place(own, root, node)
    graph_ns = str(configurable.get("checkpoint_ns")).rpartition("|")[0]
    levels = configurable.get("checkpoint_map") or {}
    under = sorted((ns, at) for ns, at in levels.items() if ns != graph_ns)
    position = [
        *(root, graph_ns, under, node),
        *(metadata.get("langgraph_step"), metadata.get("langgraph_path")),
    ]
    name = uuid5(_LEVELS, json.dumps(position, default=str))
    return Place(str(name), root, node, under)
