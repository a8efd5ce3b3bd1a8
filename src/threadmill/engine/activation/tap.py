"""Records an attempt's events and says which commit each belongs to.

LangGraph calls the tap in the middle of its loop, before it hands the described task
result or checkpoint to the saver. So an event of state (`updates`, `values`) can be
committed together with what it describes: after a crash between any two commits there
is exactly one `updates` per task and one `values` per superstep. Other events are
loose: tokens, custom data, debug, the state that a run resumes from, and all that a
subgraph tells which keeps no checkpoints here. They go with the next commit, or soon by
themselves.

Within a namespace the order of the log is the order of the tap: a loose event never
overtakes an event of state that waits for its commit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from langgraph.config import get_config
from langgraph.pregel._messages import StreamMessagesHandler
from langgraph.pregel.protocol import StreamProtocol
from langgraph.types import StreamMode

from threadmill.engine.activation.messages import MessageEvents
from threadmill.engine.activation.told import Told, question_ids
from threadmill.engine.values import INTERRUPT
from threadmill.engine.wire_json import encode
from threadmill.streams.base import NewEvent

_STATE: Final = frozenset({"updates", "values"})
_NAMESPACE_SEPARATOR: Final = "|"
# Needed whatever the client asked for: interrupts, and which task an event is of.
_ALWAYS: Final = frozenset({"updates", "values", "tasks"})
MESSAGE_MODES: Final = frozenset({"messages", "messages-tuple"})
_PLACE: Final = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")
_FROM_LOOP: Final = frozenset({"updates", "values", "tasks", "checkpoints", "debug"})

Owner = tuple[str, str]
"""What an event of state describes: ("task", task id), ("put", checkpoint id), or that
the run ends here ("end", namespace); ("open", namespace) while it is not known."""
_OPEN: Final[Owner] = ("open", "")
_ASIDE: Final[Owner] = ("aside", "")


@dataclass(slots=True)
class _Recorded:
    """An event of a namespace; without an owner it is loose."""

    event: NewEvent | None
    ns: str
    owner: Owner | None = None


@dataclass(slots=True)
class _Superstep:
    """What the tap knows of a namespace's current superstep.

    Args:
        tasks: names by id, as far as they have been announced.
        resumes: the next `values` repeats the checkpoint that was entered at.
        finished: tasks whose results were there when it was entered.
        elsewhere: tasks that others have run meanwhile.
        repeats: how many of these results are about to be repeated.
        values_told: the repeated state is in the stream already.
        updates_told: the repeated results are.
        running: tasks that run; whatever is announced from now on is called by them.
        planned: another entry has told of it up to here.
        cached: updates of tasks that the cache answered, whose writes will follow.
    """

    tasks: dict[str, str] = field(default_factory=dict)
    resumes: bool = False
    finished: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    repeats: int = 0
    values_told: bool = False
    updates_told: bool = False
    running: set[str] = field(default_factory=set)
    planned: bool = False
    cached: deque[_Recorded] = field(default_factory=deque)


class Tap:
    """The event recorder of one attempt; called from any thread.

    Args:
        modes: stream modes that the run asked for.
        subgraphs: whether events of subgraphs are wanted.
        told: what an earlier entry of this run has told.
        on_loose: called (from any thread) when a loose event waits.
    """

    def __init__(
        self,
        modes: Collection[str],
        *,
        subgraphs: bool,
        told: Told,
        on_loose: Callable[[], None],
    ) -> None:
        self._modes = frozenset(modes)
        self._subgraphs = subgraphs
        self._told = told
        self._on_loose = on_loose
        self._lock = threading.RLock()
        self._log: list[_Recorded] = []
        self._kept = {""}
        self._supersteps: dict[str, _Superstep] = {}
        self._mark: _Recorded | None = None
        self._taken: list[_Recorded] = []
        self._messages = MessageEvents(as_tuples="messages-tuple" in self._modes)
        self.interrupted = False

    def protocol(self) -> StreamProtocol:
        """What LangGraph's loop writes its chunks to."""
        wanted = _ALWAYS | (self._modes & _FROM_LOOP)
        return StreamProtocol(self._on_chunk, cast("set[StreamMode]", set(wanted)))

    def handlers(self) -> list[StreamMessagesHandler]:
        """Callback handlers that the asked modes need."""
        if self._modes & MESSAGE_MODES:
            return [StreamMessagesHandler(self._on_message, subgraphs=True)]
        return []

    def write_custom(self, payload: Any) -> None:
        """LangGraph's stream writer, for `custom` events."""
        if "custom" not in self._modes:
            return
        ns = get_config()["configurable"].get("checkpoint_ns", "")
        path = tuple(ns.split(_NAMESPACE_SEPARATOR)[:-1])
        if self._wanted(path):
            self._add_loose(path, NewEvent(f"custom{_suffix(path)}", encode(payload)))

    def write_event(self, event: Mapping[str, Any]) -> None:
        """An `astream_events` dictionary."""
        if "langsmith:hidden" not in (event.get("tags") or ()):
            self._add_loose((), NewEvent("events", encode(event)))

    def announce(self, event: NewEvent) -> None:
        """Records an event of our own, e.g. `metadata`."""
        self._add_loose((), event)

    def pause(self) -> None:
        """Records that the run waits at a static breakpoint, as LangGraph tells it."""
        self._on_chunk(((), "updates", {INTERRUPT: ()}))

    # --- supersteps ---------------------------------------------------------------

    def keep(self, ns: str) -> None:
        """This namespace puts its checkpoints here, so its events wait for them."""
        with self._lock:
            self._kept.add(ns)

    def enter(
        self,
        ns: str,
        *,
        resumes: bool,
        own: bool,
        finished: Collection[str],
        planned: bool = False,
    ) -> None:
        """A namespace is entered at a checkpoint.

        Args:
            ns: which.
            resumes: LangGraph goes on from its checkpoint, and repeats what is there.
            own: this run has put that checkpoint, and told it then.
            finished: tasks whose results are there.
            planned: its superstep is spread, and who planned it has told of it.
        """
        suffix = _suffix(_path(ns))
        with self._lock:
            self._supersteps[ns] = _Superstep(
                resumes=resumes,
                finished=set(finished),
                values_told=own or planned or f"values{suffix}" in self._told.names,
                updates_told=own or planned or f"updates{suffix}" in self._told.names,
                planned=planned,
            )

    def set_aside(self) -> None:
        """The root's superstep is spread: who goes on after it tells what is open now.

        That is what the cache has answered.
        """
        self._reassign(_OPEN, _ASIDE)

    def bring_back(self) -> None:
        """This entry goes on after the superstep."""
        self._reassign(_ASIDE, _OPEN)

    def _reassign(self, owner: Owner, to: Owner) -> None:
        with self._lock:
            for recorded in self._log:
                if recorded.owner == owner:
                    recorded.owner = to

    def told_elsewhere(self, task_ids: Collection[str]) -> None:
        """Others have told of these tasks of the root's superstep."""
        with self._lock:
            superstep = self._superstep("")
            superstep.finished |= set(task_ids)
            superstep.updates_told = True
            superstep.elsewhere |= set(task_ids)

    def task_runs(self, task_id: str) -> None:
        """A task of the root's superstep is being started, seen by users or not."""
        self._superstep("").running.add(task_id)

    def is_only_task(self, task_id: str) -> bool:
        """Whether this task is the only one of the root's superstep."""
        superstep = self._superstep("")
        return superstep.running | superstep.tasks.keys() <= {task_id}

    def has_tasks(self) -> bool:
        """Whether the root's superstep runs nodes of the user's."""
        return bool(self._superstep("").tasks)

    def writes_follow(self, ns: str, task_id: str) -> None:
        """A task's writes are about to be committed: so is what the cache answered."""
        with self._lock:
            cached = self._superstep(ns).cached
            if cached:
                cached.popleft().owner = ("task", task_id)

    def end_superstep(self, ns: str, checkpoint_id: str | None) -> None:
        """LangGraph has made a checkpoint of the namespace.

        Args:
            ns: which.
            checkpoint_id: its id: what was told of the superstep, and no task's result
                has claimed, describes it. None for the input's, which describes no
                superstep, and may come after the first one's tasks are told.
        """
        with self._lock:
            self._supersteps.pop(ns, None)
            if checkpoint_id is None:
                return
            for recorded in self._log:
                if recorded.owner == ("open", ns):
                    recorded.owner = ("put", checkpoint_id)

    def _superstep(self, ns: str) -> _Superstep:
        with self._lock:
            return self._supersteps.setdefault(ns, _Superstep())

    # --- commits ------------------------------------------------------------------

    def mark(self) -> None:
        """The run may be left here: what follows, the next entry tells again."""
        self.unmark()
        with self._lock:
            self._mark = _Recorded(None, "")
            self._log.append(self._mark)

    def unmark(self) -> None:
        """The run goes on here."""
        with self._lock:
            if self._mark is not None:
                self._log = [r for r in self._log if r is not self._mark]
                self._mark = None

    def take(
        self, owners: Collection[Owner], *, past_mark: bool = False
    ) -> list[NewEvent]:
        """Removes and returns what a commit of `owners` takes along, in order.

        What describes them goes in any case; a loose event, unless an event of state of
        its own namespace still waits before it.

        Args:
            owners: what is committed.
            past_mark: the run ends here: also what was told after the mark.
        """
        taken: list[_Recorded] = []
        left: list[_Recorded] = []
        waiting: set[str] = set()
        with self._lock:
            for place, recorded in enumerate(self._log):
                if recorded is self._mark and not past_mark:
                    left += self._log[place:]
                    break
                if recorded.owner is None:
                    goes = recorded.ns not in waiting
                else:
                    goes = recorded.owner in owners
                if goes:
                    taken.append(recorded)
                    continue
                left.append(recorded)
                if recorded.owner not in {None, _ASIDE}:
                    waiting.add(recorded.ns)
            self._log, self._taken = left, taken
        return [r.event for r in taken if r.event is not None]

    def take_all(self) -> list[NewEvent]:
        """Removes and returns everything that is left."""
        with self._lock:
            taken, self._log = self._log, []
            self._taken = [*self._taken, *taken]
        return [r.event for r in taken if r.event is not None]

    def take_loose(self) -> list[NewEvent]:
        """Removes and returns what is told whatever becomes of the state."""
        with self._lock:
            loose = [recorded for recorded in self._log if recorded.owner is None]
            self._log = [r for r in self._log if r.owner is not None]
        return [r.event for r in loose if r.event is not None]

    def give_back(self) -> None:
        """What was taken last could not be stored; its loose events still can."""
        with self._lock:
            loose = [recorded for recorded in self._taken if recorded.owner is None]
            self._log, self._taken = [*loose, *self._log], []

    # --- what LangGraph tells -----------------------------------------------------

    def _on_chunk(self, chunk: tuple[tuple[str, ...], str, Any]) -> None:
        path, mode, payload = chunk
        ns = _NAMESPACE_SEPARATOR.join(path)
        with self._lock:
            if mode == "tasks":
                self._on_task(ns, path, payload)
            elif mode in _STATE:
                self._on_state(ns, path, mode, payload)
            elif mode in self._modes and self._wanted(path) and not self._is_told(ns):
                if self._is_result_of_others(ns, mode, payload):
                    return
                if mode == "debug" and payload["type"] == "checkpoint":
                    payload = _with_places(payload)
                event = NewEvent(f"{mode}{_suffix(path)}", encode(payload))
                self._add_loose(path, event)

    def _is_result_of_others(self, ns: str, mode: str, payload: Any) -> bool:
        return (
            mode == "debug"
            and payload["type"] == "task_result"
            and payload["payload"]["id"] in self._superstep(ns).elsewhere
        )

    def _is_told(self, ns: str) -> bool:
        """Whether another entry has told what LangGraph begins a superstep with."""
        superstep = self._superstep(ns)
        return superstep.planned and not superstep.running

    def _on_task(
        self, ns: str, path: tuple[str, ...], payload: Mapping[str, Any]
    ) -> None:
        event = None
        if "tasks" in self._modes and self._wanted(path) and not self._is_told(ns):
            event = NewEvent(f"tasks{_suffix(path)}", encode(payload))
        if "result" in payload and ns in self._kept:
            self._on_result(ns, payload["id"], event)
            return
        if "result" not in payload:
            superstep = self._superstep(ns)
            superstep.tasks[payload["id"]] = payload["name"]
            if not superstep.running and payload["id"] in superstep.finished:
                superstep.repeats += 1
        if event is not None:
            self._add_loose(path, event)

    def _on_result(self, ns: str, task_id: str, event: NewEvent | None) -> None:
        superstep, owner = self._superstep(ns), ("task", task_id)
        if task_id in superstep.finished and superstep.updates_told:
            # LangGraph ends it anew, as it does with error handlers.
            self._log = [r for r in self._log if r.owner != ("open", ns)]
        if task_id in superstep.elsewhere:
            return
        for recorded in self._log:
            if recorded.owner == ("open", ns):
                recorded.owner = owner
        self._log.append(_Recorded(event, ns, owner))

    def _on_state(
        self, ns: str, path: tuple[str, ...], mode: str, payload: Any
    ) -> None:
        if mode == "updates" and not path and INTERRUPT in _keys(payload):
            self.interrupted = True
        superstep, name = self._superstep(ns), f"{mode}{_suffix(path)}"
        repeated = _repeats(superstep, mode, payload)
        questions = question_ids(payload)
        if repeated is True or (
            questions and (name, questions) in self._told.questions
        ):
            return
        if mode not in self._modes or not self._wanted(path):
            return
        loose = ns not in self._kept or repeated is False
        # At a static breakpoint LangGraph may tell of the pause before the checkpoint
        # is committed at which it pauses; whoever enters there will tell of it again.
        kind = "end" if INTERRUPT in _keys(payload) and not questions else "open"
        recorded = _Recorded(
            NewEvent(name, encode(payload)), ns, None if loose else (kind, ns)
        )
        self._log.append(recorded)
        if loose:
            self._on_loose()
        elif _is_cached(payload):
            superstep.cached.append(recorded)

    def _on_message(self, chunk: tuple[tuple[str, ...], str, Any]) -> None:
        path, _, (message, metadata) = chunk
        if self._wanted(path):
            for event in self._messages.events(_suffix(path), message, metadata):
                self._add_loose(path, event)

    def _add_loose(self, path: Sequence[str], event: NewEvent) -> None:
        with self._lock:
            self._log.append(_Recorded(event, _NAMESPACE_SEPARATOR.join(path)))
        self._on_loose()

    def _wanted(self, path: tuple[str, ...]) -> bool:
        return self._subgraphs or not path


def _path(ns: str) -> tuple[str, ...]:
    return tuple(ns.split(_NAMESPACE_SEPARATOR)) if ns else ()


def _suffix(path: Sequence[str]) -> str:
    return "".join(_NAMESPACE_SEPARATOR + part for part in path)


def _keys(payload: Any) -> Collection[str]:
    return payload.keys() if isinstance(payload, Mapping) else ()


def _is_cached(payload: Any) -> bool:
    metadata = payload.get("__metadata__") if isinstance(payload, Mapping) else None
    return isinstance(metadata, Mapping) and bool(metadata.get("cached"))


def _repeats(superstep: _Superstep, mode: str, payload: Any) -> bool | None:
    """None for news; for a repetition, whether it has been told."""
    if mode == "values" and superstep.resumes:
        superstep.resumes = False
        return superstep.values_told
    if mode == "updates" and superstep.repeats and _is_cached(payload):
        superstep.repeats -= 1
        return superstep.updates_told
    return None


def _with_places(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """A checkpoint as `debug` tells it, named the way clients know checkpoints."""
    told = payload["payload"]
    places = {
        "checkpoint": _place(told.get("config")),
        "parent_checkpoint": _place(told.get("parent_config")),
    }
    return {**payload, "payload": {**told, **places}}


def _place(config: Any) -> Mapping[str, Any] | None:
    if not config:
        return None
    configurable = config["configurable"]
    return {key: configurable[key] for key in _PLACE if key in configurable}
