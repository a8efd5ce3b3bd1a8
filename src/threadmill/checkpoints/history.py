"""What a delta channel is rebuilt from.

LangGraph's `DeltaChannel` stores its value only now and then. In between it is rebuilt:
the nearest ancestor that holds a value is the seed, and the writes along the way from
there are applied to it in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from langgraph.checkpoint.base import DeltaChannelHistory

    from threadmill.checkpoints.base import Stored
    from threadmill.checkpoints.configs import Address


class Ancestry(Protocol):
    """What a walk along a thread's history asks of its storage."""

    async def get(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None = None
    ) -> Stored | None:
        """See `Checkpoints.get`."""
        ...

    async def ancestors(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None
    ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Ids and channel values of some ancestors, the parent first.

        Without an id, those of the head. None at all: there is no parent.
        """
        ...

    async def channel_writes(
        self,
        tenant: str,
        thread_id: str,
        ns: str,
        checkpoint_ids: Sequence[str],
        channels: Sequence[str],
    ) -> Mapping[str, Sequence[tuple[str, str, Any]]]:
        """Writes to some channels by checkpoint, in LangGraph's order."""
        ...


@dataclass(slots=True)
class _Walk:
    """The way of one channel: ancestors from the nearest one to its seed."""

    ids: list[str] = field(default_factory=list)
    seed: Any = None
    seeded: bool = False


async def delta_history(
    checkpoints: Ancestry,
    tenant: str,
    at: Address,
    channels: Sequence[str],
) -> Mapping[str, DeltaChannelHistory]:
    """The seed of each channel and the writes since, oldest first.

    Without a seed the writes go back to the first checkpoint. Writes at the checkpoint
    itself are not part of its value.
    """
    walks = await _walk(checkpoints, tenant, at, channels)
    writes = await checkpoints.channel_writes(
        tenant, at.thread_id, at.ns or "", _ids(walks), channels
    )
    history: dict[str, DeltaChannelHistory] = {}
    for channel, walk in walks.items():
        entry: DeltaChannelHistory = {
            "writes": [
                write
                for checkpoint_id in reversed(walk.ids)
                for write in writes.get(checkpoint_id, ())
                if write[1] == channel
            ]
        }
        if walk.seeded:
            entry["seed"] = walk.seed
        history[channel] = entry
    return history


async def needed_ancestors(
    checkpoints: Ancestry,
    tenant: str,
    at: Address,
    channels: Sequence[str],
) -> Sequence[str]:
    """The ancestors without which a channel of this checkpoint is lost."""
    found = await checkpoints.get(tenant, at.thread_id, at.ns or "", at.checkpoint_id)
    values = found.checkpoint["channel_values"] if found else {}
    missing = [channel for channel in channels if channel not in values]
    return _ids(await _walk(checkpoints, tenant, at, missing))


async def _walk(
    checkpoints: Ancestry,
    tenant: str,
    at: Address,
    channels: Sequence[str],
) -> Mapping[str, _Walk]:
    walks = {channel: _Walk() for channel in channels}
    waiting = set(walks)
    if not waiting:
        return walks
    async for ancestor, values in _ancestors(checkpoints, tenant, at):
        for channel in tuple(waiting):
            walk = walks[channel]
            walk.ids.append(ancestor)
            if channel in values:
                walk.seed, walk.seeded = values[channel], True
                waiting.discard(channel)
        if not waiting:
            break
    return walks


async def _ancestors(
    checkpoints: Ancestry, tenant: str, at: Address
) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
    """From the parent to the first checkpoint; ends at one it has been at before."""
    last = at.checkpoint_id
    seen = {last}
    while page := await checkpoints.ancestors(tenant, at.thread_id, at.ns or "", last):
        for ancestor, values in page:
            if ancestor in seen:
                return
            seen.add(ancestor)
            yield ancestor, values
        last = page[-1][0]


def _ids(walks: Mapping[str, _Walk]) -> list[str]:
    return list(dict.fromkeys(id_ for walk in walks.values() for id_ in walk.ids))
