"""What an entry asks of the worker that it runs on.

An entry of a spread superstep claims tasks while it runs, and each of them is a lease
of its own that the worker renews and watches. The entry knows the worker only by this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol
from uuid import UUID

from threadmill.checkpoints.base import Committed
from threadmill.stores.records import Claim, FreeSlot, Superstep


class Desk(Protocol):
    """The worker's side of one attempt. Belongs to its event loop.

    Attributes:
        labels: what the worker has.
        tasks_at_once: tasks of one superstep that the attempt takes without asking
            whether others want them.
        tasks_max: tasks of one superstep that it takes at all.
        lease_seconds: how long a commit leases what it claims for the attempt.
    """

    labels: Collection[str]
    tasks_at_once: int
    tasks_max: int
    lease_seconds: float

    def leaves(self) -> bool:
        """Whether the attempt takes no more, because others wait or it must go."""
        ...

    def has_room(self) -> bool:
        """Whether what is taken runs at once, and does not queue for a thread."""
        ...

    async def hand_over(
        self, commit: Callable[[FreeSlot | None], Awaitable[Committed]]
    ) -> Committed:
        """Lets `commit` release the attempt's activation.

        The attempt's slot may take what is ready then, with the same commit.
        """
        ...

    async def claim(self, of: Superstep, n: int) -> Sequence[Claim]:
        """Claims up to `n` tasks of a superstep, and holds them.

        Raises:
            Unavailable: the store does not answer.
        """
        ...

    def ending(self, keys: Collection[tuple[UUID, int]]) -> None:
        """A commit is about to end these, and perhaps to claim others instead."""
        ...

    def hold(
        self, claims: Sequence[Claim], instead_of: Collection[tuple[UUID, int]]
    ) -> None:
        """These are the attempt's own from now on: a commit has claimed them.

        Args:
            claims: what the commit has leased, for `lease_seconds`.
            instead_of: what was `ending` when the commit was sent.
        """
        ...

    def let_go(self, keys: Collection[tuple[UUID, int]]) -> None:
        """It has; what it has claimed is held already."""
        ...
