"""What is done to the Redis that keeps what the fleet's checkpoints hold.

It is set to `appendfsync always`: what it has acknowledged outlives its death.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from chaos.arena import AFTERMATH_SECONDS, Arena, Skipped
from chaos.faults import befalls

if TYPE_CHECKING:
    from chaos.aside import Aside
    from chaos.faults import FaultOf

_AWAY_SECONDS: Final = (0.5, 3.0)
_HANGS_SECONDS: Final = 7.0


def _redis(arena: Arena) -> Aside:
    if arena.chunks is None:
        why = "PostgreSQL keeps everything: --checkpoints redis changes that"
        raise Skipped(why)
    return arena.chunks


def _away_seconds(arena: Arena) -> float:
    return arena.chooser.uniform(*_AWAY_SECONDS)


async def restart(arena: Arena, kind: str) -> None:
    """See `Aside.restart`."""
    redis = _redis(arena)
    async with befalls(arena, kind, None, aftermath=AFTERMATH_SECONDS):
        await redis.restart(_away_seconds(arena))


async def refuse(arena: Arena, kind: str) -> None:
    """See `Aside.refuse`."""
    redis = _redis(arena)
    async with befalls(arena, kind, None, aftermath=AFTERMATH_SECONDS):
        await redis.refuse(_away_seconds(arena))


async def part(arena: Arena, kind: str) -> None:
    """See `Aside.hang`."""
    redis = _redis(arena)
    async with befalls(arena, kind, None, aftermath=AFTERMATH_SECONDS):
        await redis.hang(_HANGS_SECONDS)


CHUNK_FAULTS: Final[Mapping[str, FaultOf]] = {
    "redis restart": restart,
    "redis connections refused": refuse,
    "redis partition": part,
}
