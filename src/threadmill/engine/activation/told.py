"""What an earlier entry of the same run has already told the stream.

A run that was lost in the middle of a superstep is entered again, and LangGraph begins
by repeating itself: the state that it resumes from, results that were there already,
questions that a node asks again. The stream must show each once, so whoever enters
after a loss reads what is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from threadmill.engine.values import INTERRUPT

if TYPE_CHECKING:
    from threadmill.stores.records import Run
    from threadmill.streams.base import Event, Stream

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Told:
    """A summary of a run's events.

    Args:
        names: their names, namespaces included.
        questions: names of those that show interrupts, with the interrupts' ids.
    """

    names: frozenset[str] = frozenset()
    questions: frozenset[tuple[str, tuple[str, ...]]] = field(default_factory=frozenset)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Told:
        """The summary of `events`."""
        names: set[str] = set()
        questions: set[tuple[str, tuple[str, ...]]] = set()
        for event in events:
            names.add(event.event)
            if INTERRUPT in event.data:
                ids = question_ids(json.loads(event.data))
                if ids:
                    questions.add((event.event, ids))
        return cls(frozenset(names), frozenset(questions))

    def merged(self, other: Told) -> Told:
        """Both together."""
        return Told(self.names | other.names, self.questions | other.questions)


async def read_told(stream: Stream, tenant: str, run: Run) -> Told:
    """What the stream holds of `run`; it reads all of its events.

    Raises:
        Unavailable: the store does not answer.
    """
    told, after = Told(), 0
    while True:
        page = await stream.read(
            tenant, run.thread_id, after=after, limit=_PAGE, run_id=run.run_id
        )
        told = told.merged(Told.of(page))
        if len(page) < _PAGE:
            return told
        after = page[-1].seq


def question_ids(payload: Any) -> tuple[str, ...]:
    """The ids of the interrupts that a `values` or `updates` payload shows."""
    shown = payload.get(INTERRUPT) if isinstance(payload, Mapping) else None
    return tuple(
        str(one["id"] if isinstance(one, Mapping) else one.id) for one in shown or ()
    )
