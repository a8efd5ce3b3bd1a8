"""The right to advance a thread, as every write that needs it carries it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to advance one thread: the claimed activation and its token.

    Every commit first locks the activation's row by (activation_id, token); no row
    means `LeaseLost`, and nothing is written.
    """

    tenant: str
    thread_id: UUID
    activation_id: UUID
    token: int
    run_id: UUID | None
    attempt: int = 1
