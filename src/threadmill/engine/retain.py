"""Use-case: prune threads whose time is over. Every process does it, beside its sweep.

A tenant is taken for a round, so that not all processes walk along the same threads;
who dies with one loses it. A round walks along the threads that have not changed for
longest, a page at a time, and prunes what the rules ask for, each thread by itself. It
stops when its time is up and goes on with the next look, so it never keeps the process
from anything else. What it has come to is kept in memory only: another process begins
again, and finds less.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import structlog

from threadmill.domain.retention import RetentionRules, Strategy, falls_to
from threadmill.stores.retention import Freed, Mark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.domain.retention import Ttl
    from threadmill.stores.records import Thread
    from threadmill.stores.retention import Idle, Pruning, RetentionStore

_log = structlog.get_logger(__name__)

# Rounds that one process has taken at a time.
_TENANTS: Final = 4
# The shortest time that a rule can give a thread of its own.
_OWN_MINUTES: Final = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainLimits:
    """Bounds of one look.

    Args:
        look_seconds: how long it may go on pruning.
        hold_seconds: how long others leave a tenant alone after a look at it.
        page: threads read at once.
    """

    look_seconds: float = 1.0
    hold_seconds: float = 60.0
    page: int = 1000


@dataclass(frozen=True, slots=True)
class _Round:
    """Where a tenant's round has come to; `walks` are those still to be walked."""

    tenant: str
    of_tenant: Ttl | None
    walks: tuple[bool, ...] = (True, False)
    after: Mark | None = None
    pruned: int = 0


@dataclass(slots=True)
class _Batch:
    """What was done with one page, for the log."""

    deleted: int = 0
    pruned: int = 0
    freed: Freed = field(default_factory=Freed)

    def add(self, strategy: Strategy, freed: Freed) -> None:
        self.freed += freed
        if strategy is Strategy.DELETE:
            self.deleted += 1
        else:
            self.pruned += 1


class Retain:
    """The retention of one process.

    Args:
        store: rules of tenants, and their idle threads.
        pruning: frees what a thread no longer needs.
        rules: what this process's langgraph.json says.
        limits: of one look.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        store: RetentionStore,
        pruning: Pruning,
        rules: RetentionRules,
        limits: RetainLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pruning = pruning
        self._rules = rules
        self._limits = limits or RetainLimits()
        self._clock = clock
        self._rounds: list[_Round] = []
        self.freed = Freed()
        """What this process has freed so far."""

    @property
    def look_again_seconds(self) -> float:
        """How often to ask for rounds: well within the interval between two."""
        return min(30.0, self._rules.defaults.interval_minutes * 60 / 4)

    async def rule(self, tenant: str, thread: Thread) -> tuple[str, Ttl] | None:
        """The rule that holds for a thread, and whose it is."""
        return self._rules.of_thread(
            own=thread.ttl,
            graph_id=thread.metadata.get("graph_id"),
            of_tenant=await self._store.rule(tenant),
        )

    async def look(self) -> float | None:
        """Goes on with the rounds that are due.

        Returns:
            After how many seconds to look again, if there is more to do than the time
            allowed for; None for the usual pause.
        """
        until = self._clock() + self._limits.look_seconds
        self._rounds += await self._taken()
        while self._rounds and self._clock() < until:
            walked = await self._walk(self._rounds.pop(0), until)
            if walked is not None:
                self._rounds.append(walked)
        return 0.0 if self._rounds else None

    async def _taken(self) -> list[_Round]:
        # None is taken while one goes on, which is held anew with each look.
        if self._rounds:
            for held in self._rounds:
                await self._hold(held, self._limits.hold_seconds)
            return []
        tenants = await self._store.take_rounds(
            self._rules.digest, hold_seconds=self._limits.hold_seconds, limit=_TENANTS
        )
        return [_Round(tenant, await self._store.rule(tenant)) for tenant in tenants]

    async def _hold(self, held: _Round, seconds: float) -> None:
        await self._store.end_round(
            held.tenant, self._rules.digest, again_seconds=seconds
        )

    async def _walk(self, at: _Round, until: float) -> _Round | None:
        """One page of a round, or what time allows of it; None when it is over."""
        own = at.walks[0]
        least = _OWN_MINUTES if own else self._rules.least_minutes(at.of_tenant)
        idle: Sequence[Idle] = ()
        if least is not None:
            idle = await self._store.idle(
                at.tenant,
                minutes=least,
                own=own,
                after=at.after,
                limit=self._limits.page,
            )
        seen, pruned = await self._prune(at, idle, until)
        at = replace(at, pruned=at.pruned + pruned)
        if not self._is_enough(at.pruned):
            if len(seen) == self._limits.page or len(seen) < len(idle):
                last = seen[-1]
                return replace(at, after=Mark(last.updated_at, last.thread_id))
            if at.walks[1:]:
                return replace(at, walks=at.walks[1:], after=None)
        await self._hold(at, self._rules.defaults.interval_minutes * 60)
        return None

    def _is_enough(self, pruned: int) -> bool:
        enough = self._rules.defaults.round_max
        return enough is not None and pruned >= enough

    async def _prune(
        self, at: _Round, idle: Sequence[Idle], until: float
    ) -> tuple[Sequence[Idle], int]:
        """Prunes those whose time is over; gives what was looked at, and how many went.

        It looks at one at least, so that a round gets on however slow everything is.
        """
        done, seen = _Batch(), 0
        for thread in idle:
            seen += 1
            strategy = self._asked(at, thread)
            if strategy is None:
                continue
            freed = await self._pruning.prune(
                at.tenant, thread.thread_id, strategy, as_of=thread.updated_at
            )
            if freed is not None:
                done.add(strategy, freed)
            if self._clock() >= until or self._is_enough(
                at.pruned + done.freed.threads
            ):
                break
        if done.freed.threads:
            self.freed += done.freed
            _log.info(
                "retention.pruned",
                tenant=at.tenant,
                deleted=done.deleted,
                kept_latest=done.pruned,
                checkpoints=done.freed.checkpoints,
                bytes=done.freed.bytes,
            )
        return idle[:seen], done.freed.threads

    def _asked(self, at: _Round, thread: Idle) -> Strategy | None:
        found = self._rules.of_thread(
            own=thread.own, graph_id=thread.graph_id, of_tenant=at.of_tenant
        )
        if found is None or thread.busy:
            return None
        return falls_to(
            found[1],
            idle_minutes=thread.idle_minutes,
            interrupted=thread.interrupted,
            pruned=thread.pruned,
        )
