"""Records an attempt's events and says which commit each belongs to.

LangGraph calls the tap in the middle of its loop, before it hands the described task
result or checkpoint to the saver. So an event of state (`updates`, `values`) can be
committed together with what it describes: after a crash between any two commits there
is exactly one `updates` per task and one `values` per superstep. Other events (tokens,
custom data, debug) are loose: they go with the next commit, or soon by themselves.

The order of the log is the order of the tap: a loose event never overtakes an event of
state that waits for its commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final

from langgraph.config import get_config
from langgraph.pregel._messages import StreamMessagesHandler
from langgraph.pregel.protocol import StreamProtocol

from threadmill.engine.activation.messages import MessageEvents
from threadmill.engine.wire_json import encode
from threadmill.streams.base import NewEvent

INTERRUPT: Final = "__interrupt__"
_STATE: Final = frozenset({"updates", "values"})
_NAMESPACE_SEPARATOR: Final = "|"
# Needed whatever the client asked for: interrupts, and which task an event is of.
_ALWAYS: Final = frozenset({"updates", "values", "tasks"})
MESSAGE_MODES: Final = frozenset({"messages", "messages-tuple"})
_FROM_LOOP: Final = frozenset({"updates", "values", "tasks", "checkpoints", "debug"})

Owner = tuple[str, str]
"""What an event of state describes: ("task", task id) or ("put", namespace)."""


@dataclass(slots=True)
class _Recorded:
    event: NewEvent | None
    loose: bool
    owner: Owner | None = None


@dataclass(slots=True)
class Superstep:
    """What the tap has seen of a namespace's current superstep."""

    tasks: dict[str, str] = field(default_factory=dict)


class Tap:
    """The event recorder of one attempt; called from any thread.

    Args:
        modes: stream modes that the run asked for.
        subgraphs: whether events of subgraphs are wanted.
        on_loose: called (from any thread) when a loose event waits.
    """

    def __init__(
        self,
        modes: Collection[str],
        *,
        subgraphs: bool,
        on_loose: Callable[[], None],
    ) -> None:
        self._modes = frozenset(modes)
        self._subgraphs = subgraphs
        self._on_loose = on_loose
        self._lock = threading.Lock()
        self._log: list[_Recorded] = []
        self._skip_values: set[str] = set()
        self._messages = MessageEvents(as_tuples="messages-tuple" in self._modes)
        self.supersteps: dict[str, Superstep] = {}
        self.interrupted = False
        self.drop_cached = False

    def protocol(self) -> StreamProtocol:
        """What LangGraph's loop writes its chunks to."""
        wanted = _ALWAYS | (self._modes & _FROM_LOOP)
        return StreamProtocol(self._on_chunk, set(wanted))

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
            self._add_loose(NewEvent(f"custom{_suffix(path)}", encode(payload)))

    def write_event(self, event: Mapping[str, Any]) -> None:
        """An `astream_events` dictionary."""
        if "langsmith:hidden" not in (event.get("tags") or ()):
            self._add_loose(NewEvent("events", encode(event)))

    def announce(self, event: NewEvent) -> None:
        """Records an event of our own, e.g. `metadata`."""
        self._add_loose(event)

    def skip_first_values(self, ns: str) -> None:
        """Drops the next `values` of a namespace: re-entering repeats it."""
        self._skip_values.add(ns)

    def take(self, owners: Collection[Owner]) -> list[NewEvent]:
        """Removes and returns what a commit of `owners` takes along, in order."""
        with self._lock:
            self._claim_open(owners)
            taken = list(
                takewhile(lambda r: r.loose or r.owner in owners, self._log)
            )
            del self._log[: len(taken)]
        return [r.event for r in taken if r.event is not None]

    def take_all(self, *, checkpoints: bool) -> list[NewEvent]:
        """Removes and returns everything that is left.

        Args:
            checkpoints: False when the next entry will tell of the checkpoint again.
        """
        with self._lock:
            taken, self._log = self._log, []
        events = [r.event for r in taken if r.event is not None]
        if checkpoints:
            return events
        return [e for e in events if not e.event.startswith(("checkpoints", "debug"))]

    def single_task(self, ns: str, task_id: str) -> bool:
        """Whether this task is the only one of its namespace's superstep."""
        superstep = self.supersteps.get(ns)
        return superstep is None or set(superstep.tasks) <= {task_id}

    def names(self, ns: str) -> Sequence[str]:
        """Nodes of the current superstep."""
        superstep = self.supersteps.get(ns)
        return list(superstep.tasks.values()) if superstep else []

    def end_superstep(self, ns: str) -> None:
        """A checkpoint of the namespace was committed."""
        self.supersteps.pop(ns, None)
        if not ns:
            self.drop_cached = False

    def _claim_open(self, owners: Collection[Owner]) -> None:
        # Events of state that no task result closed belong to the checkpoint.
        namespaces = {ns for kind, ns in owners if kind == "put"}
        for recorded in self._log:
            owner = recorded.owner
            if owner is not None and owner[0] == "open" and owner[1] in namespaces:
                recorded.owner = ("put", owner[1])

    def _on_chunk(self, chunk: tuple[tuple[str, ...], str, Any]) -> None:
        path, mode, payload = chunk
        ns = _NAMESPACE_SEPARATOR.join(path)
        if mode == "tasks":
            self._on_task(ns, path, payload)
        elif mode in _STATE:
            self._on_state(ns, path, mode, payload)
        elif mode in self._modes and self._wanted(path):
            self._add_loose(NewEvent(f"{mode}{_suffix(path)}", encode(payload)))

    def _on_task(
        self, ns: str, path: tuple[str, ...], payload: Mapping[str, Any]
    ) -> None:
        event = None
        if "tasks" in self._modes and self._wanted(path):
            event = NewEvent(f"tasks{_suffix(path)}", encode(payload))
        if "result" in payload:
            owner: Owner = ("task", payload["id"])
            with self._lock:
                for recorded in self._log:
                    if recorded.owner == ("open", ns):
                        recorded.owner = owner
                self._log.append(_Recorded(event, loose=False, owner=owner))
            return
        self.supersteps.setdefault(ns, Superstep()).tasks[payload["id"]] = payload[
            "name"
        ]
        if event is not None:
            self._add_loose(event)

    def _on_state(
        self, ns: str, path: tuple[str, ...], mode: str, payload: Any
    ) -> None:
        if mode == "values" and ns in self._skip_values:
            self._skip_values.discard(ns)
            return
        if mode == "updates" and isinstance(payload, Mapping):
            if not path and INTERRUPT in payload:
                self.interrupted = True
            if self.drop_cached and _is_cached(payload):
                return
        if mode not in self._modes or not self._wanted(path):
            return
        event = NewEvent(f"{mode}{_suffix(path)}", encode(payload))
        with self._lock:
            self._log.append(_Recorded(event, loose=False, owner=("open", ns)))

    def _on_message(self, chunk: tuple[tuple[str, ...], str, Any]) -> None:
        path, _, (message, metadata) = chunk
        if self._wanted(path):
            for event in self._messages.events(_suffix(path), message, metadata):
                self._add_loose(event)

    def _add_loose(self, event: NewEvent) -> None:
        with self._lock:
            self._log.append(_Recorded(event, loose=True))
        self._on_loose()

    def _wanted(self, path: tuple[str, ...]) -> bool:
        return self._subgraphs or not path


def _suffix(path: tuple[str, ...]) -> str:
    return "".join(_NAMESPACE_SEPARATOR + part for part in path)


def _is_cached(payload: Mapping[str, Any]) -> bool:
    metadata = payload.get("__metadata__")
    return isinstance(metadata, Mapping) and bool(metadata.get("cached"))
