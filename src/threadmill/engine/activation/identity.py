"""Which task a node's code belongs to, as LangGraph's config tells it.

A task of the thread's own graph is named by its id, which every process derives alike
from the same checkpoint. In a graph inside a graph that id is made of a checkpoint that
may not be stored yet when its first node runs: after a crash there it would be another
one. So a task in there is named by its position under the task of the thread's own
graph: the checkpoints of the graphs around its own, and its step, node and number. Its
own graph makes no difference to that, whether it keeps checkpoints or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid5

# Set for each task of the thread's own graph, inherited by all that it calls: its id,
# and the place of its activation. Keys that begin with two underscores stay out of
# checkpoints and never come from clients.
TASK_KEY: Final = "__threadmill_task"

_TASK_ID: Final = "__pregel_task_id"
_POSITIONS: Final = UUID("5b1b6b0e-6d0c-4c6f-9d0a-0d6e5f1b7c21")


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """A task, seen from inside.

    Args:
        name: the same in every attempt, and no other task's of the thread.
        node: its node's name.
        task_path: the place of the activation that it runs under, see `Claim`.
        under: the checkpoints that the name is made of, as (namespace, id); empty for a
            task of the thread's own graph, which only runs on a stored one.
    """

    name: str
    node: str
    task_path: str
    under: Sequence[tuple[str, str]] = ()


def identity_of(config: Mapping[str, Any]) -> TaskIdentity | None:
    """Whose config this is; None outside of the engine's nodes."""
    configurable: Mapping[str, Any] = config.get("configurable") or {}
    metadata: Mapping[str, Any] = config.get("metadata") or {}
    own = configurable.get(_TASK_ID)
    if own is None or TASK_KEY not in configurable:
        return None
    root, task_path = configurable[TASK_KEY]
    node = str(metadata.get("langgraph_node"))
    if own == root:
        return TaskIdentity(own, node, task_path)
    graph_ns = str(configurable.get("checkpoint_ns")).rpartition("|")[0]
    levels = configurable.get("checkpoint_map") or {}
    under = sorted((ns, at) for ns, at in levels.items() if ns != graph_ns)
    position = [
        *(root, graph_ns, under, node),
        *(metadata.get("langgraph_step"), metadata.get("langgraph_path")),
    ]
    name = uuid5(_POSITIONS, json.dumps(position, default=str))
    return TaskIdentity(str(name), node, task_path, under)
