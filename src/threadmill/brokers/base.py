"""Port of hints.

A hint says "look again": it carries ids, never payload, and may be lost, doubled or
late without harm, because every process also looks by itself. Publishing therefore
never waits and never fails the caller.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The longest hint on any wire; far more than ids and labels take.
HINT_BYTES_MAX: Final = 4096
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Hint:
    """An activation waits for a worker.

    Args:
        graph_id: of which graph; empty: of one that is not known here.
        tenant: whose.
        thread_id: on which thread.
        kind: of the activation: step, task or join.
        labels: what a worker must have to take it.
    """

    graph_id: str
    tenant: str = ""
    thread_id: UUID | None = None
    kind: str = "step"
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Labels become a tuple: equal hints are published once."""
        object.__setattr__(self, "labels", tuple(self.labels))

    def encode(self) -> bytes:
        """The hint as it goes over a wire.

        Raises:
            ValueError: it is longer than `HINT_BYTES_MAX`.
        """
        body = json.dumps(
            {
                "v": _VERSION,
                "tenant": self.tenant,
                "thread": str(self.thread_id) if self.thread_id else None,
                "graph": self.graph_id,
                "kind": self.kind,
                "labels": self.labels,
            },
            separators=(",", ":"),
        ).encode()
        if len(body) > HINT_BYTES_MAX:
            msg = f"a hint of {len(body)} bytes; {HINT_BYTES_MAX} is the most"
            raise ValueError(msg)
        return body

    @classmethod
    def decode(cls, body: bytes) -> Hint | None:
        """Reads one; None if it is another release's, or no hint at all."""
        if len(body) > HINT_BYTES_MAX:
            return None
        try:
            told = json.loads(body)
            if told["v"] != _VERSION:
                return None
            thread = told["thread"]
            return cls(
                str(told["graph"]),
                str(told["tenant"]),
                UUID(thread) if thread else None,
                str(told["kind"]),
                tuple(map(str, told["labels"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


#: Somewhere there is work: nobody here knows which.
UNKNOWN_WORK: Final = Hint("")


class Hints(Protocol):
    """Publishes hints; called after the commit that they are about."""

    def ready(self, hint: Hint, n: int = 1) -> None:
        """Activations wait for workers.

        Args:
            hint: what all of them have in common.
            n: how many there are.
        """
        ...

    def moved(self, tenant: str, thread_id: UUID) -> None:
        """A thread has new events, or one of its runs has ended."""
        ...

    def stop(self, activation_id: UUID, token: int) -> None:
        """An activation was cancelled: whoever runs it may stop."""
        ...


class HintReceiver(Protocol):
    """What a process does on hints; every method returns at once."""

    def on_ready(self, graph_id: str | None) -> None:
        """None: hints may have been missed, look at everything."""
        ...

    def on_moved(self, tenant: str | None, thread_id: UUID | None) -> None:
        """None: hints may have been missed, look at everything."""
        ...

    def on_stop(self, activation_id: UUID, token: int) -> None:
        """The activation was cancelled."""
        ...
