"""A graph of a few supersteps, driven without LangGraph.

Everything around it is real: the attempt, the entry's way of stopping and leaving, the
writer that queues what waits and commits it under the fence. Only what LangGraph does
in between is played: one node per superstep, whose result is committed at once or held
for the checkpoint after it, as the saver does with a superstep's only task.

The state is the list of all that was ever applied to the thread, so that a lost, a
doubled or a misplaced superstep shows in every later checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast
from uuid import UUID

from langgraph.errors import GraphDrained
from langgraph.graph import END, START, StateGraph

from threadmill.checkpoints.base import Put, Stored, Writes
from threadmill.config import GraphSpec
from threadmill.domain.fence import Fence
from threadmill.engine.activation.entry import Entry, EntryLimits, Stores
from threadmill.engine.activation.resume import is_reentry
from threadmill.engine.activation.tap import Tap
from threadmill.engine.activation.writer import Writer
from threadmill.engine.graphs import GraphCatalogue, LoadedGraph
from threadmill.faults import Faults
from threadmill.stores.records import Run
from threadmill.streams.base import NewEvent

GRAPH: Final = "graph"
# Told that a node begins: the run, its superstep, the token it acts under.
OnNode = Callable[[UUID, int, int], None]


class ScriptedTap:
    """In the place of `Tap`: events wait for the commit they describe."""

    interrupted = False

    def __init__(self) -> None:
        self._events: list[NewEvent] = []

    def tell(self, data: str) -> None:
        """An event of the superstep that has just ended."""
        self._events.append(NewEvent("values", data))

    def take(self, owners: object, *, past_mark: bool = False) -> Sequence[NewEvent]:
        """See `Tap.take`; what is told belongs to the next commit with a checkpoint."""
        return self.take_all() if past_mark or owners else []

    def take_all(self) -> Sequence[NewEvent]:
        """See `Tap.take_all`."""
        events, self._events = self._events, []
        return events


class NoTasks:
    """In the place of `TaskStarter`: the script's node runs in the drive itself."""

    running: Sequence[asyncio.Task[Any]] = ()


class ScriptedEntry(Entry):
    """An `Entry` whose graph is the script in its run's kwargs; see `script_of`."""

    def __init__(  # noqa: PLR0913
        self,
        graph: object,
        *,
        run: Run,
        head: Stored | None,
        fence: Fence,
        stores: Stores,
        hand_over: Callable[[], bool],
        limits: EntryLimits,
        first_claim: bool,
        told: object,
        on_events: Callable[[], None],
        faults: Faults | None = None,
    ) -> None:
        del graph, told
        self._run = run
        self._head = head
        self._fence = fence
        self._limits = limits
        self._hand_over = hand_over
        self._reentry = is_reentry(head, run.run_id)
        self._loop = asyncio.get_running_loop()
        self._loose = asyncio.Event()
        self._modes = []
        self._stuck = set()
        self._last = None if head is None else head.checkpoint["id"]
        self._script = ScriptedTap()
        self._tap = cast("Tap", self._script)
        self._tasks = cast("Any", NoTasks())
        self._simulated = cast("SimulatedFaults", faults)
        self._writer = Writer(
            store=stores.checkpoints,
            blocking=stores.blocking,
            fence=fence,
            tap=self._tap,
            progressed=first_claim,
            on_events=on_events,
            faults=self._simulated,
        )

    async def _is_at_breakpoint(self) -> bool:
        return False

    async def _enter(self) -> Any:
        return None

    async def _drive(self, given: Any) -> None:
        del given
        seconds: Sequence[float] = self._run.kwargs["seconds"]
        step, applied = -1, ()
        if self._head is not None:
            applied = self._head.checkpoint["channel_values"]["applied"]
        if self._reentry and self._head is not None:
            step = self._head.metadata["step"]
        else:
            applied = self._put(-1, applied)
            await self._writer.settle()
        while step + 1 < len(seconds):
            step += 1
            await self._work(step, seconds[step])
            goes_on = step + 1 < len(seconds)
            leaves = goes_on and self._hand_over()
            applied = self._put(step, applied, leaving=leaves)
            if leaves:
                raise GraphDrained("hand over")
            if goes_on:
                await self._writer.settle()

    async def _work(self, step: int, seconds: float) -> None:
        kwargs, head = self._run.kwargs, self._head
        task = f"{self._run.run_id}/{step}"
        if head is not None and any(w[0] == task for w in head.writes):
            return  # an earlier attempt has committed its result
        await self._simulated.node(self._run.run_id, step, self._fence.token)
        if kwargs.get("poison") == step:
            await self._simulated.die()
        await asyncio.sleep(seconds)
        if kwargs.get("fails") == step:
            raise ValueError("the node failed")
        assert self._last is not None  # the input's checkpoint, at least
        result = Writes("", self._last, task, "", [("applied", step)])
        if kwargs.get("wide"):
            await self._writer.commit(result)
        else:
            self._writer.hold(result)

    def _put(
        self, step: int, applied: Sequence[Any], *, leaving: bool = False
    ) -> Sequence[Any]:
        applied = (*applied, (self._run.run_id, step))
        checkpoint = {
            "id": f"{self._fence.token}.{step}",
            "channel_values": {"applied": applied},
        }
        source = "input" if step < 0 else "loop"
        self._writer.hold(
            Put(
                "",
                cast("Any", checkpoint),
                cast("Any", {"step": step, "source": source}),
                self._last,
                self._last,
            ),
            leaving=leaving,
        )
        self._last = cast("str", checkpoint["id"])
        if step >= 0:
            self._script.tell(f"{self._run.run_id}/{step}")
        return applied


class SimulatedFaults(Faults):
    """What happens at the named points of the code, and when nodes begin."""

    async def node(self, run_id: UUID, step: int, token: int) -> None:
        """A node begins."""

    async def die(self) -> None:
        """The process ends here."""


def script_of(
    seconds: Sequence[float],
    *,
    wide: bool = False,
    fails: int | None = None,
    poison: int | None = None,
) -> dict[str, Any]:
    """A run's kwargs.

    Args:
        seconds: how long the node of each superstep takes.
        wide: commit each result before its superstep's checkpoint.
        fails: the superstep whose node raises.
        poison: the superstep whose node takes its process along, every time.
    """
    return {"seconds": seconds, "wide": wide, "fails": fails, "poison": poison}


def catalogue() -> GraphCatalogue:
    """What workers have loaded: one graph that is never entered."""
    graph = StateGraph(dict)
    graph.add_node("node", lambda state: state)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    spec = GraphSpec(id=GRAPH, target=GRAPH, attribute=GRAPH)
    return GraphCatalogue([LoadedGraph(spec, graph.compile())])
