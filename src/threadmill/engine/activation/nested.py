"""Lets a subgraph without checkpoints run inside a run that commits every superstep.

Under durability "sync" LangGraph waits after each superstep, in subgraphs too, for the
put that it has made. A subgraph compiled with `checkpointer=False` makes none, and up
to LangGraph 1.2 the loop then fails for want of that future. Here the loops get one to
fall back on that is always done.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from langgraph.pregel._loop import AsyncPregelLoop, SyncPregelLoop

_PUT: Final = "_put_checkpoint_fut"


class _Done:
    """A future that everybody may wait for, on any loop and in any thread."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield

    def result(self) -> None:
        """Returns at once."""


def allow_subgraphs_without_checkpoints() -> None:
    """Mends LangGraph's loops in this process; safe to call again."""
    for loop in (AsyncPregelLoop, SyncPregelLoop):
        if not hasattr(loop, _PUT):
            setattr(loop, _PUT, _Done())
