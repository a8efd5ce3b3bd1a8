"""A thread's state: reading it, its history, and changing it from outside.

States are LangGraph's own: the thread's graph reads them through a saver, so that
subgraphs, next nodes and open questions come out as in any LangGraph program. A change
is an activation of its own: it is refused while a run is active or queued, and new
runs wait behind it.
"""

from __future__ import annotations

import asyncio
import copy
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.errors import InvalidUpdateError
from langgraph.types import StateSnapshot

from threadmill.domain.run import ThreadStatus
from threadmill.engine.fenced_saver import FencedSaver
from threadmill.engine.graph_factories import GraphUse
from threadmill.engine.ready import hint_next
from threadmill.engine.uncancelled import uncancelled
from threadmill.engine.values import (
    interrupt_json,
    needs_history,
    open_interrupts,
    raw_values,
    values_of,
)
from threadmill.errors import (
    Error,
    GraphLoadFailed,
    InvalidRequest,
    LeaseLost,
    NotFound,
    StateLost,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Mapping,
        Sequence,
    )
    from uuid import UUID

    from langgraph.checkpoint.base import BaseCheckpointSaver

    from threadmill.brokers.base import Hints
    from threadmill.checkpoints.base import Checkpoints, Stored
    from threadmill.domain.fence import Fence
    from threadmill.engine.graph_schemas import CompiledGraph
    from threadmill.engine.graphs import GraphCatalogue
    from threadmill.stores.base import Threads
    from threadmill.stores.records import Json, Thread

_log = structlog.get_logger(__name__)

# Heads that one request reads at once: the pool serves others as well.
_READS_AT_ONCE: Final = 4
# Of states, also of several threads, that wait until they are told.
_READS_AHEAD: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where in a thread; by default the head of the root graph.

    Args:
        ns: a subgraph's namespace.
        map: the checkpoints of the graphs around it.
    """

    checkpoint_id: str | None = None
    ns: str = ""
    map: Mapping[str, str] | None = None

    def config(self, thread_id: UUID) -> RunnableConfig:
        """The same as LangGraph says it."""
        configurable: Json = {"thread_id": str(thread_id), "checkpoint_ns": self.ns}
        if self.checkpoint_id:
            configurable["checkpoint_id"] = self.checkpoint_id
        if self.map:
            configurable["checkpoint_map"] = dict(self.map)
        return {"configurable": configurable}


@dataclass(frozen=True, slots=True)
class Glance:
    """What a list shows of a thread's state.

    Args:
        values: None if the thread has no state, or has lost it.
        interrupts: open questions by task.
    """

    values: Any = None
    interrupts: Mapping[str, Sequence[Json]] = field(default_factory=dict)


class States:
    """Reads and changes the states of threads.

    Args:
        threads: where threads are.
        graphs: what is served.
        checkpoints: where state is.
        saver: a LangGraph saver of one tenant, for reading.
        hints: told when a run may go on after a change.
        member: this process, as the owner of changes under way.
        lease_seconds: how long a change may take.
    """

    def __init__(
        self,
        *,
        threads: Threads,
        graphs: GraphCatalogue,
        checkpoints: Checkpoints,
        saver: Callable[[str], BaseCheckpointSaver[Any]],
        hints: Hints,
        member: UUID,
        lease_seconds: float,
    ) -> None:
        self._threads = threads
        self._graphs = graphs
        self._checkpoints = checkpoints
        self._saver = saver
        self._hints = hints
        self._member = member
        self._lease_seconds = lease_seconds

    async def get(
        self, tenant: str, thread_id: UUID, at: Position, *, subgraphs: bool = False
    ) -> StateSnapshot:
        """The state at a position; an empty one where there is no head yet.

        Raises:
            NotFound: no such thread or checkpoint, or its graph is not served.
            InvalidRequest: no such subgraph.
        """
        thread = await self._threads.get(tenant, thread_id)
        config = at.config(thread_id)
        graph_id = _graph_id(thread)
        if graph_id is None:
            return _found(
                StateSnapshot({}, (), config, None, None, None, (), ()), at, thread_id
            )
        async with self._graph(graph_id, config, self._saver(tenant)) as graph:
            with _ClientErrors():
                state = await graph.aget_state(config, subgraphs=subgraphs)
        return _found(state, at, thread_id)

    async def history(
        self,
        tenant: str,
        thread_id: UUID,
        at: Position,
        *,
        limit: int,
        before: Position | None = None,
        metadata: Json | None = None,
    ) -> AsyncGenerator[StateSnapshot, None]:
        """Past states, newest first by the order in which they were committed.

        They are read as they are asked for, a few at a time. What is pruned meanwhile
        ends them.

        Args:
            tenant: whose thread it is.
            thread_id: the thread.
            at: the namespace whose history it is.
            limit: how many at most.
            before: only states older than this one.
            metadata: contained in the checkpoint's metadata.

        Raises:
            NotFound: no such thread, or its graph is not served.
            InvalidRequest: no such subgraph.
        """
        thread = await self._threads.get(tenant, thread_id)
        graph_id = _graph_id(thread)
        if graph_id is None:
            return
        config = at.config(thread_id)
        older_than = None if before is None else before.config(thread_id)
        async with self._graph(graph_id, config, self._saver(tenant)) as graph:
            for start in range(0, limit, _READS_AHEAD):
                # LangGraph reads all that it is asked for before it tells the first.
                size = min(limit - start, _READS_AHEAD)
                asked = graph.aget_state_history(
                    config, filter=metadata, before=older_than, limit=size
                )
                try:
                    with _ClientErrors():
                        states = [state async for state in asked]
                except NotFound:
                    if start:
                        return  # it was pruned meanwhile
                    raise
                for state in states:
                    yield state
                if len(states) < size:
                    return
                older_than = states[-1].config

    async def update(
        self,
        tenant: str,
        thread_id: UUID,
        at: Position,
        values: Any,
        *,
        as_node: str | None = None,
    ) -> RunnableConfig:
        """Applies `values` as if `as_node` had returned them; a new checkpoint.

        Returns:
            The config of the new checkpoint.

        Raises:
            NotFound: no such thread or checkpoint, or its graph is not served.
            ThreadBusy: a run is active or queued.
            InvalidRequest: the graph refuses the update.
            LeaseLost: it took too long, and the thread went on without it.

        Cancelled or killed in the middle, the checkpoint is there whole or not at
        all, and the thread goes on.
        """
        thread = await self._threads.get(tenant, thread_id)
        graph_id = _graph_id(thread)
        if graph_id is None:
            msg = (
                f"thread {thread_id} has no graph; run it once, or create it with "
                "metadata.graph_id"
            )
            raise InvalidRequest(msg)
        self._graphs.get(graph_id)
        fence = await self._threads.begin_update(
            tenant,
            thread_id,
            worker_id=self._member,
            lease_seconds=self._lease_seconds,
            graph_id=graph_id,
        )
        status: ThreadStatus | None = None
        try:
            async with asyncio.timeout(self._lease_seconds):
                written, status = await self._apply(
                    fence, graph_id, at, values, as_node
                )
        except TimeoutError:
            msg = (
                "the update took longer than THREADMILL_LEASE_SECONDS; "
                "read the state before you send it again"
            )
            raise LeaseLost(msg) from None
        finally:
            await uncancelled(self._end_update(fence, status))
        return written

    async def _apply(
        self,
        fence: Fence,
        graph_id: str,
        at: Position,
        values: Any,
        as_node: str | None,
    ) -> tuple[RunnableConfig, ThreadStatus]:
        # As a run's checkpoints do: a search of histories goes by it.
        config: RunnableConfig = {
            **at.config(fence.thread_id),
            "metadata": {"graph_id": graph_id},
        }
        saver = FencedSaver(
            store=self._checkpoints,
            reads=self._saver(fence.tenant),
            fence=fence,
            graph_id=graph_id,
        )
        async with self._graph(
            graph_id, config, saver, access="threads.update"
        ) as graph:
            if at.checkpoint_id is not None:
                with _ClientErrors():
                    origin = await graph.aget_state(config)
                _found(origin, at, fence.thread_id)
            refused = _ClientErrors(
                "the graph refuses the update", unless=lambda: saver.has_committed
            )
            with refused:
                written = await graph.aupdate_state(config, values, as_node=as_node)
            root = await graph.aget_state(Position().config(fence.thread_id))
        return written, ThreadStatus.INTERRUPTED if root.next else ThreadStatus.IDLE

    async def _end_update(self, fence: Fence, status: ThreadStatus | None) -> None:
        try:
            following = await self._threads.end_update(fence, status=status)
        except Unavailable as error:
            # The checkpoint stands; the sweep ends the update when its lease is over.
            _log.warning(
                "update.left_open", thread_id=str(fence.thread_id), error=str(error)
            )
            return
        self._hints.moved(fence.tenant, fence.thread_id)
        hint_next(self._hints, following)

    async def glances(
        self, tenant: str, threads: Sequence[Thread]
    ) -> AsyncGenerator[Glance, None]:
        """Values and open questions of several threads, from their heads, in order.

        They are read as they are asked for, a few at a time. One that was deleted
        meanwhile, or has lost its state, has none. When a read fails otherwise, no
        other one goes on.
        """
        free = asyncio.Semaphore(_READS_AT_ONCE)

        async def one(thread: Thread) -> Glance:
            async with free:
                return await self.glance(tenant, thread)

        for start in range(0, len(threads), _READS_AHEAD):
            some = threads[start : start + _READS_AHEAD]
            try:
                async with asyncio.TaskGroup() as group:
                    reads = [group.create_task(one(thread)) for thread in some]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            for read in reads:
                yield read.result()

    async def glance(self, tenant: str, thread: Thread) -> Glance:
        """Values and open questions of a thread; see `glances`."""
        thread_id = str(thread.thread_id)
        try:
            stored = await self._checkpoints.get(tenant, thread_id, "")
            if stored is None:
                return Glance()
            values = await self._head_values(tenant, thread, stored)
        except NotFound:
            return Glance()
        except StateLost as lost:
            # It is a thread among others; who asks for its state is told.
            _log.warning("state.lost", thread=thread_id, cause=str(lost))
            return Glance()
        return Glance(
            values,
            {
                task: [interrupt_json(i) for i in asked]
                for task, asked in open_interrupts(stored.writes).items()
            },
        )

    async def _head_values(self, tenant: str, thread: Thread, stored: Stored) -> Any:
        graph = self._at_hand(_graph_id(thread))
        if graph is None:
            return raw_values(stored)
        names = graph.stream_channels_asis
        if needs_history(graph, names):
            return (await self.get(tenant, thread.thread_id, Position())).values
        return values_of(graph, stored, names)

    def _at_hand(self, graph_id: str | None) -> CompiledGraph | None:
        """The graph, if it is there without building it."""
        if graph_id is None:
            return None
        try:
            return self._graphs.get(graph_id).graph
        except (NotFound, GraphLoadFailed):
            return None

    @asynccontextmanager
    async def _graph(
        self,
        graph_id: str,
        config: RunnableConfig,
        saver: BaseCheckpointSaver[Any],
        *,
        access: str = "threads.read",
    ) -> AsyncIterator[CompiledGraph]:
        use = GraphUse(access=cast("Any", access), config=config)
        async with self._graphs.get(graph_id).open(use) as graph:
            bound = copy.copy(graph)
            bound.checkpointer = saver
            yield bound


def _graph_id(thread: Thread) -> str | None:
    """The graph that a thread's state is read with, if it has one."""
    graph_id = thread.metadata.get("graph_id")
    return graph_id if isinstance(graph_id, str) else None


def _found(state: StateSnapshot, at: Position, thread_id: UUID) -> StateSnapshot:
    """`state`, unless LangGraph made it up for a checkpoint that is not there.

    Raises:
        NotFound: the thread has no such checkpoint.
    """
    if at.checkpoint_id is not None and state.metadata is None:
        msg = f"thread {thread_id} has no checkpoint {at.checkpoint_id}"
        raise NotFound(msg)
    return state


class _ClientErrors:
    """Turns what a graph makes of a client's wrong request into `InvalidRequest`.

    Args:
        prefix: before the text; with one, whatever the graph raises is turned.
        unless: whether it is too late for the client to be told to change it.
    """

    def __init__(
        self,
        prefix: str | None = None,
        *,
        unless: Callable[[], bool] = lambda: False,
    ) -> None:
        self._prefix = prefix
        self._unless = unless

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: object, error: BaseException | None, trace: object
    ) -> None:
        if error is None or isinstance(error, Error) or self._unless():
            return
        if self._prefix is not None and isinstance(error, Exception):
            # Reducers and node mappers are the graph's own code.
            msg = f"{self._prefix}: {type(error).__name__}: {error}"
            raise InvalidRequest(msg) from error
        if isinstance(error, ValueError | InvalidUpdateError):
            raise InvalidRequest(str(error)) from error
