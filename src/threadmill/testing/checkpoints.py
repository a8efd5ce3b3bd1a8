"""Checkpoints made up for tests, and what a test needs around an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from langgraph.checkpoint.base import empty_checkpoint

from threadmill.checkpoints.base import ANY_HEAD, Put, Writes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata

    from threadmill.checkpoints.base import Checkpoints
    from threadmill.domain.fence import Fence

# LangGraph's task of input and commands.
NULL_TASK = str(UUID(int=0))


@dataclass(frozen=True, slots=True)
class ActivationState:
    """What a release and progress change."""

    state: str
    attempt: int
    token: int


class CheckpointsHarness(Protocol):
    """What the suite needs around the adapter."""

    checkpoints: Checkpoints

    async def claim(self, tenant: str = "default") -> Fence:
        """A new thread with a run whose activation is claimed."""
        ...

    async def next_run(self, fence: Fence) -> Fence:
        """Another run of the same thread, claimed."""
        ...

    async def take_over(self, fence: Fence) -> Fence:
        """The same activation, claimed by somebody else."""
        ...


class ActivationsHarness(CheckpointsHarness, Protocol):
    """What it needs besides where activations and events are stored as well."""

    async def activation(self, fence: Fence) -> ActivationState:
        """The activation's present state."""
        ...

    async def events(self, fence: Fence) -> Sequence[str]:
        """The data of all events of the thread, in order."""
        ...


def checkpoint(checkpoint_id: str, **values: Any) -> Checkpoint:
    """A checkpoint with these channel values."""
    made = empty_checkpoint()
    made["id"] = checkpoint_id
    made["channel_values"] = values
    made["channel_versions"] = dict.fromkeys(values, 1)
    return made


def put(
    checkpoint_id: str,
    parent: str | None = None,
    *,
    ns: str = "",
    expected: str | None = ANY_HEAD,
    metadata: dict[str, Any] | None = None,
    **values: Any,
) -> Put:
    """A put of such a checkpoint."""
    meta: CheckpointMetadata = {"source": "loop", "step": 0, "parents": {}}
    meta.update(metadata or {})  # type: ignore[typeddict-item]
    return Put(ns, checkpoint(checkpoint_id, **values), meta, parent, expected)


def writes(
    checkpoint_id: str, task: str, *items: tuple[str, Any], path: str = "", ns: str = ""
) -> Writes:
    """A task's writes."""
    return Writes(ns, checkpoint_id, task, path, items)
