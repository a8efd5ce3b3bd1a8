"""The right to advance a thread, as every write that needs it carries it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to advance one thread: claimed activations with their tokens.

    Every commit first locks the activations' rows by (activation_id, token); a missing
    row means `LeaseLost`, and nothing is written.

    Args:
        activation_id, token: of the claim; what is stored bears them.
        also: the other activations of an attempt that runs several tasks.
    """

    tenant: str
    thread_id: UUID
    activation_id: UUID
    token: int
    run_id: UUID | None
    attempt: int = 1
    also: tuple[tuple[UUID, int], ...] = ()

    @property
    def rights(self) -> list[tuple[UUID, int]]:
        """Every (activation id, token), in the order in which rows are locked."""
        return sorted([(self.activation_id, self.token), *self.also])
