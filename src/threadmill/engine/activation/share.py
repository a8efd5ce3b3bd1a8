"""Which tasks of a superstep run here, and what becomes of the others.

LangGraph hands over all tasks of a superstep at once. If the worker may run them all,
it does, and nobody else hears of them. Otherwise the superstep is *spread*: one commit
replaces the step's activation by one for each task; this entry runs its share, claims
more while there are any, and leaves when there are none. Whoever commits the last
result also adds the activation that goes on after the superstep. That one may be this
entry: then it is given the results of the others and goes on as if it had run them.

A task that runs elsewhere is not started here; LangGraph waits for it until its result
is given to it, or until it is told that the entry leaves (`Parked`). What LangGraph
writes of such a task is not written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from threadmill.checkpoints.base import (
    Checkpoints,
    Committed,
    EndOfTasks,
    Plan,
    PlannedTask,
    Stored,
)
from threadmill.domain.fence import Fence
from threadmill.engine.activation.places import (
    Sharing,
    claim_of,
    is_call,
    is_handler,
    place_of,
)
from threadmill.engine.activation.resume import (
    is_question,
    is_result,
)
from threadmill.engine.activation.submitted import Result, Submitted
from threadmill.engine.activation.tap import Tap
from threadmill.engine.activation.writer import Writer
from threadmill.errors import Error, GraphFailed, LeaseLost
from threadmill.stores.records import Claim, Superstep

# A worker that wants more than its share leaves the others time to take theirs.
_PAUSE_SECONDS: Final = 0.01


class Share:
    """One entry's share of the supersteps that it comes through.

    Belongs to the entry's event loop.

    Args:
        sharing: what the run and the worker allow.
        writer: commits plans and ends; its fence is what this entry holds.
        tap: learns which results others have told.
        store: where others' results are read.
        head: the checkpoint that the entry begins at.

    Attributes:
        head_id: the thread's head as LangGraph knows it; it may not be durable yet.
        spread: whether the superstep is, and this entry holds some of its tasks only.
        needs: the labels that somebody must have to go on, if this worker has not.
    """

    def __init__(
        self,
        *,
        sharing: Sharing,
        writer: Writer,
        tap: Tap,
        store: Checkpoints,
        head: Stored | None,
    ) -> None:
        self._sharing = sharing
        self._desk = sharing.desk
        self._at_once = min(sharing.desk.tasks_at_once, sharing.desk.tasks_max)
        self._writer = writer
        self._tap = tap
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._base = writer.fence
        self._submitted = Submitted()
        self._replays = sharing.replays
        self._known = None if sharing.replays else head
        self._rows = {
            claim.task_path: claim for claim in sharing.claims if claim.task_path
        }
        self._ended: dict[UUID, Claim] = {}
        self._changed = asyncio.Event()
        self._verdict: asyncio.Event | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._gathering = False
        self.spread = bool(sharing.claims)
        self.needs: Sequence[str] | None = None
        self.head_id = head.checkpoint["id"] if head else None
        writer.ends = self
        if self.spread:
            self._begin_spread()

    @property
    def may_leave(self) -> bool:
        """Whether a superstep may need a label that this worker does not have."""
        return self._sharing.labelled

    # --- what LangGraph's tasks come through ----------------------------------------

    async def admitted(self, task: Any) -> Result | None:
        """Waits until a task may run here; or its result, if it was run elsewhere.

        Args:
            task: as LangGraph submits it.

        Returns:
            None: run it. Else what it has written.

        Raises:
            Parked: it does not run here, and the entry leaves.
            GraphInterrupt: it was run elsewhere, and asked a human.
        """
        if is_call(task.path):
            return None
        return await self._submitted.admitted(task.id)

    def gather(self, task: Any) -> None:
        """LangGraph has submitted a task; others of its superstep follow at once."""
        if is_call(task.path):
            return
        self._submitted.add(task)
        if not self._gathering:
            self._gathering = True
            self._loop.call_soon(self._gathered)

    def _gathered(self) -> None:
        self._gathering, self._submitted.complete = False, True
        if not self.spread:
            self._share_out()
        else:
            self._tap.set_aside()
            self._admit(self._rows)
            self._changed.set()

    # --- a superstep that begins here --------------------------------------------

    def _share_out(self) -> None:
        """Runs all tasks here, or plans, or leaves them to whoever has the labels."""
        known, self._known = self._known, None
        self._give_back(known)
        tasks = self._submitted.open
        if not tasks:
            return
        able = [task for task in tasks if self._is_able(task)]
        stays = self._sharing.stays
        together = stays is not None or self._replays
        fits = together or len(tasks) <= self._at_once
        if len(able) == len(tasks) and fits:
            self._tap.unmark()
            self._submitted.run_all()
        elif stays is not None:
            self._refuse(stays)
        elif len(tasks) == 1 or self._replays:
            # An older checkpoint's tasks stay together: somebody must have all labels.
            nodes = [task for task in tasks if not is_handler(task.path)]
            needed = {label for task in nodes for label in self._labels_of(task)}
            self.needs = sorted(needed)
            self._submitted.park()
        else:
            self._tap.unmark()
            self._start(self._plan(tasks, able))

    def _refuse(self, stays: str) -> None:
        """The run cannot go where a label is that one of its nodes needs."""
        for task in self._submitted.open:
            labels = ", ".join(self._labels_of(task))
            self._submitted.refuse(
                task.id,
                GraphFailed(
                    f"node '{task.name}' needs a worker with the labels {labels}, "
                    f"and the run cannot leave the one that it is on: {stays}"
                ),
            )

    async def _plan(self, tasks: Sequence[Any], able: Sequence[Any]) -> None:
        at_once = self._sharing.at_once or len(tasks)
        mine = {task.id for task in able[: min(self._at_once, at_once)]}
        others = [task.id for task in tasks if task.id not in mine]
        waits = set(others[at_once - len(mine) :])
        planned = [
            PlannedTask(
                task_id=task.id,
                task_path=place_of(task.path),
                node=task.name,
                labels=self._labels_of(task),
                mine=task.id in mine,
                waits=task.id in waits,
            )
            for task in tasks
        ]
        step = self._writer.fence.rights
        self._desk.ending(step)
        committed = await self._writer.plan(
            Plan(str(self.head_id), planned, self._desk.lease_seconds)
        )
        self._rows = {
            place: claim_of(self._base, "task", activation_id, token, place)
            for place, (activation_id, token) in committed.planned.items()
        }
        self._desk.hold(list(self._rows.values()), instead_of=step)
        self._desk.let_go(step)
        self.spread = True
        self._hold()
        self._sharing.tell_planned(planned)
        self._begin_spread()

    def _is_able(self, task: Any) -> bool:
        if is_handler(task.path):
            return True  # it runs where the error was
        return set(self._labels_of(task)) <= set(self._desk.labels)

    def _labels_of(self, task: Any) -> Sequence[str]:
        return sorted({*self._sharing.labels, *self._sharing.labels_of(task.name)})

    # --- a superstep that is spread ----------------------------------------------

    def _begin_spread(self) -> None:
        self._verdict = asyncio.Event()
        self._tap.set_aside()
        self._admit(self._rows)
        self._start(self._take_more(self._verdict))

    async def _take_more(self, verdict: asyncio.Event) -> None:
        """Claims tasks while there are any, and leaves when there are none."""
        allowance, bounded = self._at_once, self._sharing.at_once is not None
        some_left = True
        while self._is_undecided(verdict):
            self._changed.clear()
            wanted = min(allowance, self._desk.tasks_max) - len(self._rows)
            takes = (some_left or bounded or not self._rows) and self._may_take()
            if takes and wanted > 0:
                found = await self._claim(wanted)
                some_left = len(found) == wanted
            if not self._rows:
                if self._is_undecided(verdict):
                    self._leave()
                return
            more = some_left and allowance < self._desk.tasks_max and self._may_take()
            try:
                async with asyncio.timeout(_PAUSE_SECONDS if more else None):
                    await self._changed.wait()
            except TimeoutError:
                allowance *= 2

    def _is_undecided(self, verdict: asyncio.Event) -> bool:
        """Whether it may still turn out that this entry goes on, or leaves."""
        return self.spread and self._verdict is verdict

    def _may_take(self) -> bool:
        return not self._desk.leaves() and self._desk.has_room()

    async def _claim(self, n: int) -> Sequence[Claim]:
        run_id, checkpoint_id = self._base.run_id, self.head_id
        assert run_id is not None  # noqa: S101  # an entry is a run's
        assert checkpoint_id is not None  # noqa: S101  # there are tasks
        try:
            found = await self._desk.claim(Superstep(run_id, checkpoint_id), n)
        except Error:
            return ()  # somebody else will take them
        if found:  # else the superstep may be over by now, and the fence another one
            claimed = {c.task_path: c for c in found if c.task_path is not None}
            self._rows |= claimed
            self._hold()
            self._admit(claimed)
        return found

    def _admit(self, places: Iterable[str]) -> None:
        """Lets those run whose activations this entry holds."""
        for place in list(places):
            here, claim = self._submitted.run(place), self._rows[place]
            if here or not self._submitted.complete:
                continue
            if claim.activation_id not in self._ended:
                # The cache of this process knows its result: nothing is left to do.
                self._is_ending(claim)
                self._start(self._writer.end(claim.activation_id))

    def ends(self, task_id: str, writes: Result) -> UUID | None:
        """The activation that ends with these writes of a task, if one does."""
        place = self._submitted.place(task_id)
        if not self.spread or place is None:
            return None
        row = self._rows.get(place)
        if row is None or not (is_result(writes) or is_question(writes)):
            return None
        self._is_ending(row)
        return row.activation_id

    def _is_ending(self, row: Claim) -> None:
        self._ended[row.activation_id] = row
        self._desk.ending([row.key])

    def end_of(self, activations: Sequence[UUID]) -> EndOfTasks:
        """What a commit says that ends these."""
        return EndOfTasks(
            activations,
            bounded=self._sharing.at_once is not None,
            lease_seconds=None
            if self._sharing.hand_over()
            else self._desk.lease_seconds,
            labels=self._sharing.labels,
        )

    def on_ended(self, ended: EndOfTasks, committed: Committed) -> None:
        """A commit has ended tasks of this entry, and perhaps the superstep."""
        gone = [self._ended.pop(activation) for activation in ended.activations]
        keys = [claim.key for claim in gone]
        for claim in gone:
            self._rows.pop(str(claim.task_path), None)
        if committed.join is not None:
            join = claim_of(self._base, "join", *committed.join)
            self._desk.hold([join], instead_of=keys)
            self._writer.idle = False
            self._writer.fence = replace(
                self._base, activation_id=join.activation_id, token=join.token, also=()
            )
            self.spread = False
            self._start(self._go_on())
        else:
            self._hold()
            if ended.bounded:
                self._sharing.tell_freed()
            if committed.remaining == 0:
                self._sharing.on_ready("join", self._sharing.labels, 1)
                self._leave()
        self._desk.let_go(keys)
        self._changed.set()

    def fence_of(self, place: str) -> Fence:
        """The right under which a task that runs here acts; callable from any thread.

        Raises:
            LeaseLost: its activation is held no longer.
        """
        if not self.spread:
            return self._writer.fence
        row = self._rows.get(place)
        if row is None:
            raise LeaseLost
        return replace(
            self._base, activation_id=row.activation_id, token=row.token, also=()
        )

    def _hold(self) -> None:
        """The fence of what is written from now on."""
        self._writer.idle = not self._rows
        rights = sorted(
            ((claim.token, claim.activation_id) for claim in self._rows.values()),
            reverse=True,
        )
        if rights:
            (token, activation_id), *also = rights
            self._writer.fence = replace(
                self._base,
                activation_id=activation_id,
                token=token,
                also=tuple((id_, token) for token, id_ in also),
            )

    @property
    def is_running(self) -> bool:
        """Whether a task of this entry has not ended: it runs, or it has failed."""
        return any(c.activation_id not in self._ended for c in self._rows.values())

    # --- when it is over ---------------------------------------------------------

    async def goes_on(self) -> bool:
        """Waits until it is known whether this entry goes on after the superstep."""
        if self._verdict is not None:
            verdict = self._verdict
            if not self._submitted.complete:
                self._gathered()
            await verdict.wait()
        return not self.spread

    async def _go_on(self) -> None:
        """Everything is there: what others have done is given to LangGraph."""
        self._tap.bring_back()
        if self._submitted.open:
            fence = self._writer.fence
            self._known = await self._store.get(
                fence.tenant, str(fence.thread_id), "", self.head_id
            )
            self._share_out()
        self._decide()

    def _leave(self) -> None:
        self._submitted.park()
        self._decide()

    def _decide(self) -> None:
        if self._verdict is not None:
            self._verdict.set()
            self._verdict = None
        self._changed.set()

    def _give_back(self, known: Stored | None) -> None:
        """What is known of tasks that have run."""
        if known is None:
            return
        given = self._submitted.give_back(known, self._base.run_id)
        if given.ids:
            self._tap.told_elsewhere(given.ids)
        if given.failed:
            # LangGraph asks for the handler next, whose result is known as well.
            self._known = known

    def is_elsewhere(self, task_id: str) -> bool:
        """Whether what LangGraph writes of a task is not this entry's to write."""
        return self._submitted.is_elsewhere(task_id, spread=self.spread)

    def end_superstep(self) -> None:
        """LangGraph has applied the superstep's results."""
        self._submitted = Submitted()
        self._replays = False
        self._known = None

    # --- its own tasks -----------------------------------------------------------

    def _start(self, work: Any) -> None:
        task = self._loop.create_task(self._guarded(work))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - our bug must end the entry, too
            # Also a read that failed: nobody else goes on, and the lease is renewed.
            self._writer.refuse(error)

    @property
    def working(self) -> Collection[asyncio.Task[None]]:
        """What must end with the entry."""
        return list(self._working)
