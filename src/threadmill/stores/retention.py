"""Ports of retention: which threads are idle, what pruning one frees, and doing it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from threadmill.domain.retention import Strategy, Ttl


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A thread that has not changed for a while.

    Args:
        own: its own rule.
        idle_minutes: since its last change, by the database's clock.
        pruned: only its present state is left already.
        busy: a run or a state update holds it now.
    """

    thread_id: UUID
    graph_id: str | None
    updated_at: datetime
    own: Ttl | None
    idle_minutes: float
    interrupted: bool
    pruned: bool
    busy: bool


@dataclass(frozen=True, slots=True)
class Freed:
    """What pruning has freed, or would free."""

    threads: int = 0
    checkpoints: int = 0
    bytes: int = 0

    def __add__(self, other: Freed) -> Freed:
        """Both together."""
        return Freed(
            self.threads + other.threads,
            self.checkpoints + other.checkpoints,
            self.bytes + other.bytes,
        )

    def as_json(self, *, dry_run: bool) -> dict[str, Any]:
        """As clients and the command line see it."""
        return {"dry_run": dry_run, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a walk along idle threads has come to."""

    updated_at: datetime
    thread_id: UUID


class RetentionStore(Protocol):
    """Rules of tenants, and the walk along their idle threads."""

    async def take_rounds(
        self, rules: str, *, hold_seconds: float, limit: int
    ) -> Sequence[str]:
        """Tenants whose threads are due to be looked at; others do not get them.

        Args:
            rules: the digest of what the caller judges by.
            hold_seconds: who dies with a tenant loses it after this.
            limit: how many at most.
        """
        ...

    async def end_round(self, tenant: str, rules: str, *, again_seconds: float) -> None:
        """The tenant is due again after so long."""
        ...

    async def rule(self, tenant: str) -> Ttl | None:
        """The tenant's rule, if it has one."""
        ...

    async def set_rule(self, tenant: str, ttl: Ttl | None) -> None:
        """Takes the place of the tenant's rule; None takes it away."""
        ...

    async def idle(
        self,
        tenant: str,
        *,
        minutes: float,
        own: bool = False,
        after: Mark | None = None,
        limit: int,
    ) -> Sequence[Idle]:
        """Threads that have not changed for so long, the longest first.

        Threads of stateless runs, which have timers of their own, are left out.

        Args:
            tenant: whose.
            minutes: at least so long.
            own: only threads with a rule of their own.
            after: go on behind this place.
            limit: how many at most.
        """
        ...


class Pruning(Protocol):
    """Frees what a thread at rest no longer needs."""

    async def prune(
        self,
        tenant: str,
        thread_id: UUID,
        strategy: Strategy,
        *,
        as_of: datetime | None = None,
    ) -> Freed | None:
        """Prunes a thread, unless something happens on it.

        It waits for nobody: a thread that somebody works on, or has locked, is left
        alone. A run that is accepted meanwhile waits until it is done and finds the
        head where it was, or finds no thread.

        Args:
            tenant: whose.
            thread_id: which.
            strategy: what is to be left.
            as_of: the change that the caller has seen as the last one: a thread that
                has changed since is left alone, and so is one that waits for a human,
                unless it is deleted. None: whatever has changed.

        Returns:
            What was freed; None for a thread that was left alone, or is not there.
        """
        ...

    async def weigh(
        self, tenant: str, thread_id: UUID, strategy: Strategy
    ) -> Freed | None:
        """What `prune` would free now, or None; changes nothing, and locks nothing."""
        ...
