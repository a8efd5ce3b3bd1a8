"""The tasks of one superstep that LangGraph has submitted, and what each waits for.

A task waits until it may run here, until it is given what it has written elsewhere, or
until it is told that the entry leaves. Every superstep has a new one of these: nothing
of the last one is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langgraph.errors import GraphDrained, GraphInterrupt

from threadmill.checkpoints.base import Stored
from threadmill.engine.activation.places import place_of
from threadmill.engine.activation.resume import errors, questions, results
from threadmill.engine.values import NULL_TASK

Result = Sequence[tuple[str, Any]]


class Parked(GraphDrained):
    """What LangGraph is told of a task that does not run here: it leaves the graph."""


@dataclass(slots=True, eq=False)
class _Waiting:
    task: Any
    place: str
    admitted: asyncio.Future[Result | None]


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Tasks that have run elsewhere.

    Args:
        ids: of all of them.
        failed: whether an error is among them: its handler follows.
    """

    ids: Sequence[str] = ()
    failed: bool = False


class Submitted:
    """Belongs to the entry's event loop.

    Attributes:
        complete: LangGraph has submitted all tasks of the superstep.
    """

    def __init__(self) -> None:
        self.complete = False
        self._waiting: dict[str, _Waiting] = {}
        self._by_place: dict[str, list[_Waiting]] = {}
        self._elsewhere: set[str] = set()

    def add(self, task: Any) -> None:
        """LangGraph has submitted a task."""
        admitted: asyncio.Future[Result | None]
        admitted = asyncio.get_running_loop().create_future()
        one = _Waiting(task, place_of(task.path), admitted)
        self._waiting[task.id] = one
        self._by_place.setdefault(one.place, []).append(one)

    async def admitted(self, task_id: str) -> Result | None:
        """See `Share.admitted`."""
        return await self._waiting[task_id].admitted

    def place(self, task_id: str) -> str | None:
        """The place of a task; None if it was not submitted."""
        one = self._waiting.get(task_id)
        return None if one is None else one.place

    @property
    def open(self) -> Sequence[Any]:
        """Tasks, as submitted, that still wait."""
        return [one.task for one in self._still_waiting()]

    def _still_waiting(self) -> Sequence[_Waiting]:
        return [one for one in self._waiting.values() if not one.admitted.done()]

    def run_all(self) -> None:
        """Lets all run that wait."""
        for one in self._still_waiting():
            one.admitted.set_result(None)

    def run(self, place: str) -> bool:
        """Lets what waits at a place run; returns whether anything was submitted there.

        A task and the handler of its error have one place.
        """
        here = self._by_place.get(place, ())
        for one in here:
            if not one.admitted.done():
                one.admitted.set_result(None)
        return bool(here)

    def refuse(self, task_id: str, error: BaseException) -> None:
        """Fails a task that waits."""
        self._waiting[task_id].admitted.set_exception(error)

    def park(self) -> None:
        """Tells all that wait that they run elsewhere."""
        for one in self._still_waiting():
            self._elsewhere.add(one.task.id)
            one.admitted.set_exception(Parked("runs elsewhere"))

    def give_back(self, known: Stored, run_id: UUID | None) -> GivenBack:
        """Gives those that wait what is known of them: results, questions, errors.

        Args:
            known: the superstep's checkpoint, with what its tasks have written.
            run_id: whose questions count.
        """
        done, failed = results(known), errors(known)
        asked = questions(known, run_id)
        given: list[str] = []
        raised = False
        for one in self._still_waiting():
            id_ = one.task.id
            if id_ in done:
                one.admitted.set_result(done[id_])
            elif id_ in asked:
                one.admitted.set_exception(GraphInterrupt(asked[id_]))
            elif id_ in failed:
                raised = True
                one.admitted.set_exception(failed[id_])
            else:
                continue
            given.append(id_)
        self._elsewhere |= set(given)
        return GivenBack(given, raised)

    def is_elsewhere(self, task_id: str, *, spread: bool) -> bool:
        """See `Share.is_elsewhere`."""
        if task_id in self._elsewhere:
            return True
        if not spread:
            return False
        one = self._waiting.get(task_id)
        return task_id == NULL_TASK or (one is not None and not one.admitted.done())
