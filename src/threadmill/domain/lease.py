"""When a worker must stop by itself.

Lease time is the database's. A worker cannot read that clock while it is cut off,
so it keeps a local, monotonic deadline that is always earlier: counted from the
moment before it asked, less a margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Durations of one deployment.

    Args:
        lease_seconds: how long a claim or a renewal holds.
        renew_seconds: how often it is renewed; less than half of the lease.
        margin_seconds: how much earlier than the database the worker gives up.
    """

    lease_seconds: float = 10.0
    renew_seconds: float = 3.0
    margin_seconds: float = 1.0

    def deadline(self, asked_at: float) -> float:
        """The monotonic instant at which the holder must have stopped.

        Args:
            asked_at: monotonic time just before the claim or renewal was sent.
        """
        return asked_at + self.lease_seconds - self.margin_seconds


SUSPECT_LOSSES: Final = 2
"""An activation that was lost so often without getting on may be what kills its
workers: a worker claims none beside another. The database's `claim` keeps to it. Of a
superstep that was planned after so many losses, the planner has some at once."""


def is_suspect(losses: int) -> bool:
    """Whether an activation is claimed by a worker only if it holds no other such.

    Args:
        losses: attempts at it that came to nothing since it last got on.
    """
    return losses >= SUSPECT_LOSSES
