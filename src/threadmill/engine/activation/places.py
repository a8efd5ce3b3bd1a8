"""Where tasks may run: what a run and its worker allow, and how a task is told apart.

LangGraph gives each task of a superstep a path. Every process that loads the same
checkpoint derives the same, so a path names a task between processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from langgraph.channels.untracked_value import UntrackedValue
from langgraph.pregel import Pregel

from threadmill.checkpoints.base import PlannedTask
from threadmill.domain.fence import Fence
from threadmill.domain.labels import labels
from threadmill.engine.activation.desk import Desk
from threadmill.errors import BadSetting, GraphFailed
from threadmill.stores.records import Claim

_HANDLER: Final = "node_error_handler"
# Of the path of a task that is no handler.
_LONGEST: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How an entry shares its supersteps with others.

    Args:
        desk: the worker's side of the attempt.
        claims: the tasks of a spread superstep that the entry is for; none for a step.
        planned: who planned the superstep that the entry begins at has told of it.
        labels: what a worker must have for anything of the run.
        labels_of: what it must have for a node, besides.
        labelled: whether any node asks for more.
        at_once: how many tasks of a superstep may run at once, if that is bounded.
        stays: why the run may not leave this process, if it may not.
        replays: the run begins at an older checkpoint of its choice: what was done
            there is done anew.
        hand_over: asked after each superstep with user nodes: leave now?
        on_ready: told when others may find work: of which kind, which labels it needs
            (None: not known), and how much.
    """

    desk: Desk
    claims: Sequence[Claim]
    planned: bool
    labels: Sequence[str]
    labels_of: Callable[[str], Sequence[str]]
    labelled: bool
    at_once: int | None
    stays: str | None
    replays: bool
    hand_over: Callable[[], bool]
    on_ready: Callable[[str, Sequence[str] | None, int], None]

    def tell_planned(self, planned: Sequence[PlannedTask]) -> None:
        """As many hints as there are tasks that others may take now."""
        free = Counter(
            tuple(task.labels) for task in planned if not (task.mine or task.waits)
        )
        for needed, n in free.items():
            self.on_ready("task", needed, n)

    def tell_freed(self) -> None:
        """One that waited, because not all may run at once, may go now."""
        self.on_ready("task", None if self.labelled else self.labels, 1)


def labels_of(graph: Pregel[Any, Any, Any, Any], node: str) -> Sequence[str]:
    """What a worker must have to run a node.

    That is what the node's metadata says, and for a node that is a graph, or calls one
    that LangGraph can see, what the nodes of that graph need: they run where it does.

    Raises:
        GraphFailed: the metadata of one has no such form.
    """
    return sorted(_needs(graph, node, frozenset()))


def _needs(
    graph: Pregel[Any, Any, Any, Any], node: str, within: frozenset[int]
) -> set[str]:
    needs = set(_own_labels(graph, node))
    for _, inner in graph.get_subgraphs(namespace=node):
        if isinstance(inner, Pregel) and id(inner) not in within:
            for name in inner.nodes:
                needs |= _needs(inner, name, within | {id(inner)})
    return needs


def _own_labels(graph: Pregel[Any, Any, Any, Any], node: str) -> Sequence[str]:
    given = (graph.nodes[node].metadata or {}).get("threadmill", {})
    where = f"node '{node}': metadata['threadmill']"
    if not isinstance(given, Mapping) or given.keys() - {"labels"}:
        raise GraphFailed(f"{where} must be an object with 'labels'")
    try:
        return labels(given.get("labels", ()), f"{where}['labels']")
    except BadSetting as error:
        raise GraphFailed(str(error)) from None


def labels_asked(
    runs: Iterable[Sequence[str]], graphs: Iterable[object]
) -> Sequence[str]:
    """Every label that something asks for, as far as it can be seen.

    Args:
        runs: what runs need as a whole.
        graphs: whose nodes may need more; what a factory builds is not seen.
    """
    asked = {label for needed in runs for label in needed}
    for graph in graphs:
        if isinstance(graph, Pregel):
            asked |= {label for node in graph.nodes for label in labels_of(graph, node)}
    return sorted(asked)


def untracked_channels(graph: Pregel[Any, Any, Any, Any]) -> list[str]:
    """Channels whose values no checkpoint keeps."""
    return [
        name
        for name, channel in graph.channels.items()
        if isinstance(channel, UntrackedValue)
    ]


def is_call(path: tuple[Any, ...]) -> bool:
    """Whether a task is a `@task` call, which runs where its caller does."""
    return bool(path) and path[-1] is True


def is_handler(path: tuple[Any, ...]) -> bool:
    """Whether a task handles the error of another one."""
    # LangGraph's path of a handler: its task's own, this word, and one thing more.
    return path[-2:-1] == (_HANDLER,) and len(path) > _LONGEST


def place_of(path: tuple[Any, ...]) -> str:
    """A task's place in its superstep; its handler and its calls have the same."""
    while is_call(path):
        path = path[1]
    return repr(path[:-2] if is_handler(path) else path)


def claim_of(
    base: Fence, kind: str, activation_id: UUID, token: int, place: str | None = None
) -> Claim:
    """What a commit of the attempt has leased to it."""
    assert base.run_id is not None  # noqa: S101  # an entry is a run's
    return Claim(
        tenant=base.tenant,
        activation_id=activation_id,
        thread_id=base.thread_id,
        run_id=base.run_id,
        token=token,
        attempt=1,
        kind=kind,
        task_path=place,
    )
