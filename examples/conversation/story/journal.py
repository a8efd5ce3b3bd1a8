"""Where did this node run? Every node of the story writes that down, in one file.

A line is appended when a node begins, by the process that runs it. So the file tells
which worker ran what, how often, and when, whatever has become of that worker since.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any

# Set by the demo for each worker; without them nothing is written.
PATH_VARIABLE = "STORY_JOURNAL"
NAME_VARIABLE = "STORY_NAME"

_LOOK_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Begun:
    """A node that began.

    Args:
        at_seconds: on the machine's monotonic clock, which its processes share.
    """

    run_id: str
    node: str
    worker: str
    pid: int
    at_seconds: float


def note(node: str) -> None:
    """Writes down that a node begins here and now."""
    path = os.environ.get(PATH_VARIABLE)
    if path is None:
        return
    # Only nodes get here; who reads the journal needs no LangGraph.
    from langgraph.config import get_config

    begun = Begun(
        run_id=get_config()["metadata"]["run_id"],
        node=node,
        worker=os.environ[NAME_VARIABLE],
        pid=os.getpid(),
        at_seconds=time.monotonic(),
    )
    # One write of one line: appended whole, also when another process appends too.
    with Path(path).open("ab", buffering=0) as journal:
        journal.write(json.dumps(asdict(begun)).encode() + b"\n")


def noted(node: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same node, which writes down where it runs."""

    @wraps(node)
    def noting(state: Any) -> Any:
        note(node.__name__)
        return node(state)

    return noting


class Journal:
    """Reads what the workers wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def begun(self, run_id: str, node: str | None = None) -> list[Begun]:
        """What began for a run, in order."""
        lines = [line for line in self.path.read_text().split("\n")[:-1] if line]
        entries = [Begun(**json.loads(line)) for line in lines]
        return [
            entry
            for entry in entries
            if entry.run_id == run_id and node in {None, entry.node}
        ]

    async def wait_for(self, run_id: str, node: str, times: int) -> Begun:
        """Returns when the node has begun for the `times`-th time."""
        while len(found := self.begun(run_id, node)) < times:  # noqa: ASYNC110 - another process writes
            await asyncio.sleep(_LOOK_SECONDS)
        return found[times - 1]
