"""A graph of a few supersteps, driven without LangGraph.

Everything around it is real: the attempt, the entry's way of stopping and leaving, the
share that spreads a superstep's tasks over the workers, the writer that queues what
waits and commits it under the fence. Played is what LangGraph and the saver do in
between: the tasks of each superstep, and the checkpoint after them.

The state is the list of all that was ever applied to the thread, so that a lost, a
doubled or a misplaced superstep shows in every later checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from langgraph.errors import GraphDrained
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from threadmill.checkpoints.base import Put, Stored, Writes
from threadmill.config import GraphSpec
from threadmill.domain.fence import Fence
from threadmill.engine.activation.entry import Entry, EntryLimits, Stores
from threadmill.engine.activation.places import Sharing, place_of
from threadmill.engine.activation.resume import is_reentry, results
from threadmill.engine.activation.share import Share
from threadmill.engine.activation.submitted import Parked
from threadmill.engine.activation.tap import Tap
from threadmill.engine.activation.trace import RunTrace
from threadmill.engine.activation.writer import Until, Writer
from threadmill.engine.graphs import GraphCatalogue, LoadedGraph
from threadmill.faults import Faults
from threadmill.stores.records import Run
from threadmill.streams.base import NewEvent

GRAPH: Final = "graph"
NODE: Final = "node"
GPU: Final = "gpu"


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

    def set_aside(self) -> None:
        """See `Tap.set_aside`; nothing is told of a superstep before it has ended."""

    def bring_back(self) -> None:
        """See `Tap.bring_back`."""

    def unmark(self) -> None:
        """See `Tap.unmark`."""

    def told_elsewhere(self, task_ids: object) -> None:
        """See `Tap.told_elsewhere`."""


class RunningTasks:
    """In the place of `TaskStarter`: the tasks of the superstep that run now."""

    def __init__(self) -> None:
        self.running: Sequence[asyncio.Task[Any]] = ()


@dataclass(frozen=True, slots=True)
class ScriptedTask:
    """A task as `Share` looks at it."""

    id: str
    name: str
    path: tuple[Any, ...]
    step: int
    seconds: float


class ScriptedEntry(Entry):
    """An `Entry` whose graph is the script in its run's kwargs; see `script_of`."""

    def __init__(
        self,
        graph: object,
        *,
        run: Run,
        head: Stored | None,
        fence: Fence,
        stores: Stores,
        sharing: Sharing,
        limits: EntryLimits,
        first_claim: bool,
        told: object,
        on_events: Callable[[], None],
        faults: Faults | None = None,
    ) -> None:
        del graph, told
        self._run = run
        self._head = head
        self._limits = limits
        self._desk = sharing.desk
        self._hand_over = sharing.hand_over
        self._reentry = is_reentry(head, run.run_id)
        self._loop = asyncio.get_running_loop()
        self._loose = asyncio.Event()
        self._modes = []
        self._stuck = set()
        self._script = ScriptedTap()
        self._tap = cast("Tap", self._script)
        self._running = RunningTasks()
        self._tasks = cast("Any", self._running)
        self._simulated = cast("SimulatedFaults", faults)
        self._writer = Writer(
            store=stores.checkpoints,
            blocking=stores.blocking,
            fence=fence,
            tap=self._tap,
            progressed=first_claim,
            run=replace(run, labels=()),
            on_events=on_events,
            faults=self._simulated,
        )
        self._trace = RunTrace(run)
        self._share = Share(
            sharing=sharing,
            writer=self._writer,
            tap=self._tap,
            store=stores.checkpoints,
            head=head,
        )

    async def _is_at_breakpoint(self) -> bool:
        return False

    async def _enter(self) -> Any:
        return None

    async def _drive(self, given: Any) -> None:
        del given
        supersteps: Sequence[Sequence[float]] = self._run.kwargs["supersteps"]
        step = -1
        applied: Sequence[Any] = ()
        if self._head is not None:
            applied = self._head.checkpoint["channel_values"]["applied"]
        if self._reentry and self._head is not None:
            step = self._head.metadata["step"]
        else:
            applied = self._put(-1, applied, ())
        while step + 1 < len(supersteps):
            step += 1
            results = await self._superstep(step, supersteps[step])
            if not await self._share.goes_on():
                raise Parked("the superstep ends elsewhere")
            self._share.end_superstep()
            goes_on = step + 1 < len(supersteps)
            leaves = goes_on and self._hand_over()
            applied = self._put(step, applied, results, leaving=leaves)
            if leaves:
                raise GraphDrained("hand over")

    async def _superstep(self, step: int, seconds: Sequence[float]) -> Sequence[Any]:
        """Runs the tasks that are for this entry; gives the results of all."""
        labels, run_id = self._run.kwargs["gpu"], self._run.run_id
        tasks = [
            ScriptedTask(
                f"{run_id}/{step}/{n}",
                GPU if labels and n == 0 else NODE,
                ("__pregel_push", n),
                step,
                took,
            )
            for n, took in enumerate(seconds)
        ]
        known = results(self._head) if self._reentry and self._head else {}
        todo = [task for task in tasks if task.id not in known]
        for task in todo:
            self._share.gather(task)
        running = [
            self._loop.create_task(self._task(task, alone=len(tasks) == 1))
            for task in todo
        ]
        self._running.running = running
        if running:
            await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        for ended in running:
            if ended.done() and not ended.cancelled() and ended.exception():
                await self._end_tasks()
                ended.result()
        found = dict(zip([task.id for task in todo], running, strict=True))
        return [
            known[task.id] if task.id in known else found[task.id].result()
            for task in tasks
        ]

    async def _task(self, task: ScriptedTask, *, alone: bool) -> Sequence[Any]:
        elsewhere = await self._share.admitted(task)
        if elsewhere is not None:
            return elsewhere
        await self._writer.settle()
        await self._work(task)
        written = [("applied", task.id)]
        if self._share.is_elsewhere(task.id):
            return written
        assert self._share.head_id is not None  # the input's checkpoint, at least
        result = Writes("", self._share.head_id, task.id, "", written)
        ends = self._share.ends(task.id, written)
        if alone and ends is None and not self._run.kwargs["eager"]:
            self._writer.hold(result)
        else:
            await self._writer.commit(result, ends=ends)
        return written

    async def _work(self, task: ScriptedTask) -> None:
        kwargs, step = self._run.kwargs, task.step
        row = self._share._rows.get(place_of(task.path)) if self._share.spread else None
        await self._simulated.node(
            task.id, self.fence.token if row is None else row.token
        )
        if kwargs["poison"] == step and task.path[-1] == 0:
            await self._simulated.die()
        await asyncio.sleep(task.seconds)
        if kwargs["fails"] == step and task.path[-1] == 0:
            raise ValueError("the node failed")

    def _put(
        self,
        step: int,
        applied: Sequence[Any],
        results: Sequence[Any],
        *,
        leaving: bool = False,
    ) -> Sequence[Any]:
        given = tuple(value for written in results for _, value in written)
        applied = (*applied, (self._run.run_id, step, given))
        checkpoint = {
            "id": f"{self.fence.token}.{step}",
            "channel_values": {"applied": applied},
        }
        source = "input" if step < 0 else "loop"
        self._writer.hold(
            Put(
                "",
                cast("Any", checkpoint),
                cast("Any", {"step": step, "source": source}),
                self._share.head_id,
                self._share.head_id,
            ),
            Until.LEAVING if leaving else Until.ANYTHING,
        )
        self._share.head_id = cast("str", checkpoint["id"])
        if step >= 0:
            self._script.tell(f"{self._run.run_id}/{step}")
        return applied


class SimulatedFaults(Faults):
    """What happens at the named points of the code, and when nodes begin."""

    async def node(self, task_id: str, token: int) -> None:
        """A node begins, under a token."""

    async def die(self) -> None:
        """The process ends here."""


def script_of(
    supersteps: Sequence[Sequence[float]],
    *,
    eager: bool = False,
    gpu: bool = False,
    at_once: int | None = None,
    fails: int | None = None,
    poison: int | None = None,
) -> dict[str, Any]:
    """A run's kwargs.

    Args:
        supersteps: how long each task of each superstep takes.
        eager: commit the result of an only task before its superstep's checkpoint.
        gpu: the first task of each superstep needs a worker with the label `gpu`.
        at_once: how many tasks of a superstep may run at once.
        fails: the superstep whose first task raises.
        poison: the superstep whose first task takes its process along, every time.
    """
    return {
        "supersteps": supersteps,
        "eager": eager,
        "gpu": gpu,
        "config": {} if at_once is None else {"max_concurrency": at_once},
        "fails": fails,
        "poison": poison,
    }


class _State(TypedDict):
    pass


def catalogue() -> GraphCatalogue:
    """What workers have loaded: one graph that is never entered, but for its labels."""
    graph = StateGraph(_State)
    graph.add_node(NODE, lambda state: state)
    needs = {"threadmill": {"labels": [GPU]}}
    graph.add_node(GPU, lambda state: state, metadata=needs)
    graph.add_edge(START, NODE)
    graph.add_edge(NODE, GPU)
    graph.add_edge(GPU, END)
    spec = GraphSpec(id=GRAPH, target=GRAPH, attribute=GRAPH)
    return GraphCatalogue([LoadedGraph(spec, graph.compile())])
