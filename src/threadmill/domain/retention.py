"""How long a thread is kept: which rule holds for it, and what it asks for now.

Rules come from four places. The nearest wins as a whole, its strategy with its time:
the thread's own, its graph's, its tenant's, the default of langgraph.json. The time
counts from the thread's last change; pruning is no change.

A process judges only by rules that it knows: graphs have their rules in the
langgraph.json of whoever serves them, so the threads of other graphs are left to
processes that serve those.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from threadmill.errors import BadSetting, InvalidRequest

# Ten years: instants that are so far away still fit everywhere.
TTL_MINUTES_MAX: Final = 5_256_000
_KEYS: Final = frozenset(
    {"strategy", "default_ttl", "sweep_interval_minutes", "sweep_limit"}
)


class Strategy(StrEnum):
    """What becomes of a thread whose time is over.

    `delete` leaves nothing. `keep_latest` leaves its present state and what that is
    rebuilt from.
    """

    DELETE = "delete"
    KEEP_LATEST = "keep_latest"


@dataclass(frozen=True, slots=True)
class Ttl:
    """A rule: after so many minutes without a change; None is never."""

    minutes: float | None
    strategy: Strategy = Strategy.DELETE


FOR_EVER: Final = Ttl(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TtlDefaults:
    """What langgraph.json says under `checkpointer.ttl`.

    Args:
        ttl: for threads that nobody else has a rule for; None for none.
        interval_minutes: how often threads are looked at.
        round_max: threads that are pruned in one look; None for all.
    """

    ttl: Ttl | None = None
    interval_minutes: float = 5.0
    round_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRules:
    """All that one process knows about how long to keep threads.

    Args:
        defaults: of its langgraph.json.
        graphs: each graph that it serves, with its rule if it has one.
    """

    defaults: TtlDefaults = TtlDefaults()
    graphs: Mapping[str, Ttl | None] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Equal for processes that judge alike."""
        known = [
            _spelled(self.defaults.ttl),
            self.defaults.interval_minutes,
            [[graph, _spelled(ttl)] for graph, ttl in sorted(self.graphs.items())],
        ]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]

    def least_minutes(self, of_tenant: Ttl | None) -> float | None:
        """No thread without a rule of its own is due before; None: none ever is."""
        found = [self.defaults.ttl, of_tenant, *self.graphs.values()]
        return min((t.minutes for t in found if t and t.minutes), default=None)

    def of_thread(
        self, *, own: Ttl | None, graph_id: str | None, of_tenant: Ttl | None
    ) -> tuple[str, Ttl] | None:
        """The rule that holds for a thread, and whose it is.

        Args:
            own: the thread's.
            graph_id: its graph; None before its first run.
            of_tenant: its tenant's.

        Returns:
            None if there is no rule, or it may be in a langgraph.json of others.
        """
        if own is not None:
            return "thread", own
        if graph_id is not None:
            if graph_id not in self.graphs:
                return None
            if (of_graph := self.graphs[graph_id]) is not None:
                return "graph", of_graph
        if of_tenant is not None:
            return "tenant", of_tenant
        return None if self.defaults.ttl is None else ("default", self.defaults.ttl)


def falls_to(
    ttl: Ttl, *, idle_minutes: float, interrupted: bool, pruned: bool
) -> Strategy | None:
    """What is to be done with a thread at rest now, if anything.

    Args:
        ttl: the rule that holds for it.
        idle_minutes: since its last change.
        interrupted: it waits for a human; only `delete` ends that.
        pruned: only its present state is left already.
    """
    if ttl.minutes is None or idle_minutes < ttl.minutes:
        return None
    if ttl.strategy is Strategy.KEEP_LATEST and (interrupted or pruned):
        return None
    return ttl.strategy


def strategy_of(value: object) -> Strategy:
    """A strategy by its name.

    Raises:
        InvalidRequest: there is none of this name.
    """
    if isinstance(value, str) and value in {s.value for s in Strategy}:
        return Strategy(value)
    raise InvalidRequest("strategy must be delete or keep_latest")


def asked_ttl(value: Any) -> Ttl | None:
    """A thread's ttl as LangGraph's clients send it; None when they send none.

    Args:
        value: minutes, or {"ttl": minutes, "strategy": ...}.

    Raises:
        InvalidRequest: it is neither.
    """
    if value is None:
        return None
    given = value if isinstance(value, dict) else {"ttl": value}
    minutes = _minutes(given.get("ttl"))
    if minutes is None:
        raise InvalidRequest(
            'ttl must be minutes, or {"ttl": minutes, "strategy": "delete" or '
            f'"keep_latest"}}; more than 0, and at most {TTL_MINUTES_MAX}'
        )
    return Ttl(minutes, strategy_of(given.get("strategy", Strategy.DELETE)))


def graph_ttl(value: object, where: str) -> Ttl | None:
    """A graph's rule in langgraph.json: null keeps its threads for ever.

    Raises:
        BadSetting: naming `where`.
    """
    if value is None:
        return FOR_EVER
    known = {"strategy", "default_ttl"}
    if not isinstance(value, dict) or value.keys() - known:
        raise BadSetting(f"{where} must be null, or have default_ttl and strategy")
    found = ttl_defaults(value, where)
    if found.ttl is None:
        raise BadSetting(f"{where}.default_ttl is missing; give minutes")
    return found.ttl


def ttl_defaults(value: object, where: str) -> TtlDefaults:
    """What stands under `checkpointer.ttl` in langgraph.json.

    Raises:
        BadSetting: naming `where`.
    """
    if not isinstance(value, dict):
        raise BadSetting(f"{where} must be an object such as {{'default_ttl': 43200}}")
    if unknown := sorted(value.keys() - _KEYS):
        known = ", ".join(sorted(_KEYS))
        raise BadSetting(f"{where}.{unknown[0]} is not known; there may be: {known}")
    try:
        strategy = strategy_of(value.get("strategy", Strategy.DELETE))
    except InvalidRequest as error:
        raise BadSetting(f"{where}.{error}") from None
    found = {}
    for name in ("default_ttl", "sweep_interval_minutes"):
        found[name] = _minutes(value.get(name))
        if found[name] is None and value.get(name) is not None:
            raise BadSetting(
                f"{where}.{name} must be minutes between 0 and {TTL_MINUTES_MAX}"
            )
    limit = value.get("sweep_limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise BadSetting(f"{where}.sweep_limit must be a count of threads")
    minutes = found["default_ttl"]
    return TtlDefaults(
        ttl=None if minutes is None else Ttl(minutes, strategy),
        interval_minutes=found["sweep_interval_minutes"]
        or TtlDefaults().interval_minutes,
        round_max=limit,
    )


def _minutes(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return (
        float(value) if 0 < value <= TTL_MINUTES_MAX and math.isfinite(value) else None
    )


def _spelled(ttl: Ttl | None) -> list[object] | None:
    return None if ttl is None else [ttl.minutes, ttl.strategy.value]
