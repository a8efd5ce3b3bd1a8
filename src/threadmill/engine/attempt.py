"""Claims of one run that are carried out together, and what they give a right to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from threadmill.checkpoints.base import RunState
from threadmill.domain.fence import Fence
from threadmill.engine.activation.desk import Desk
from threadmill.engine.activation.stop import Stop
from threadmill.stores.records import Claim


class Attempt:
    """Claims of one run in work: what the worker may still tell it.

    Args:
        claims: one, or several tasks of the run's superstep.
        desk: the worker's side.
        stop: its switch.
        begun: the run and its state, if the claim has come with them.
    """

    def __init__(
        self,
        claims: Sequence[Claim],
        desk: Desk,
        stop: Stop | None = None,
        begun: RunState | None = None,
    ) -> None:
        self.claims = claims
        self.desk = desk
        self.begun = begun
        self.stop = stop or Stop()

    @property
    def claim(self) -> Claim:
        """The first of them."""
        return self.claims[0]


def fence_of(claim: Claim, *more: Claim) -> Fence:
    """The right that claims of one run give."""
    return Fence(
        tenant=claim.tenant,
        thread_id=claim.thread_id,
        activation_id=claim.activation_id,
        token=claim.token,
        run_id=claim.run_id,
        attempt=claim.attempt,
        also=tuple(other.key for other in more),
    )


def by_run(claims: Sequence[Claim]) -> Iterator[Sequence[Claim]]:
    """What one attempt carries out: the tasks of one run together, all else alone."""
    tasks: dict[UUID, list[Claim]] = {}
    for claim in claims:
        if claim.kind == "task":
            tasks.setdefault(claim.run_id, []).append(claim)
        else:
            yield [claim]
    yield from tasks.values()


def is_planned(claim: Claim) -> bool:
    """Whether another entry has told of the superstep that a claim begins at."""
    return claim.kind == "task" or (claim.kind == "join" and claim.attempt <= 1)
