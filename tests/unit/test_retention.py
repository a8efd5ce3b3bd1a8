"""Which rule holds for a thread, and what it asks for."""

from __future__ import annotations

from typing import Any

import pytest

from threadmill.domain.retention import (
    FOR_EVER,
    RetentionRules,
    Strategy,
    Ttl,
    TtlDefaults,
    asked_ttl,
    falls_to,
    graph_ttl,
    ttl_defaults,
)
from threadmill.errors import BadSetting, InvalidRequest

OWN, OF_GRAPH, OF_TENANT, DEFAULT = (Ttl(float(n)) for n in (1, 2, 3, 4))


def rules(default: Ttl | None = DEFAULT, **graphs: Ttl | None) -> RetentionRules:
    return RetentionRules(defaults=TtlDefaults(ttl=default), graphs=graphs)


@pytest.mark.parametrize(
    ("own", "graph_id", "of_tenant", "expected"),
    [
        (OWN, "ruled", OF_TENANT, ("thread", OWN)),
        (None, "ruled", OF_TENANT, ("graph", OF_GRAPH)),
        (None, "plain", OF_TENANT, ("tenant", OF_TENANT)),
        (None, "plain", None, ("default", DEFAULT)),
        (None, None, OF_TENANT, ("tenant", OF_TENANT)),
        (None, "kept", OF_TENANT, ("graph", FOR_EVER)),
        # Another process may know better.
        (None, "somebody's", OF_TENANT, None),
        (OWN, "somebody's", None, ("thread", OWN)),
    ],
)
def test_the_nearest_rule_wins(
    own: Ttl | None, graph_id: str | None, of_tenant: Ttl | None, expected: object
) -> None:
    known = rules(ruled=OF_GRAPH, plain=None, kept=FOR_EVER)
    found = known.of_thread(own=own, graph_id=graph_id, of_tenant=of_tenant)
    assert found == expected


def test_without_any_rule_nothing_is_ever_due() -> None:
    known = rules(None, plain=None, kept=FOR_EVER)
    assert known.least_minutes(None) is None
    assert known.of_thread(own=None, graph_id="plain", of_tenant=None) is None
    assert rules(ruled=OF_GRAPH).least_minutes(OWN) == 1


def test_processes_that_judge_alike_share_their_rounds() -> None:
    assert rules(a=OWN, b=None).digest == rules(b=None, a=OWN).digest
    others = [rules(a=OWN), rules(a=OF_GRAPH, b=None), rules(None, a=OWN, b=None)]
    assert rules(a=OWN, b=None).digest not in [other.digest for other in others]


@pytest.mark.parametrize(
    ("minutes", "strategy", "state", "expected"),
    [
        (10, "delete", {}, None),
        (5, "delete", {}, "delete"),
        (5, "delete", {"interrupted": True}, "delete"),
        (5, "delete", {"pruned": True}, "delete"),
        (5, "keep_latest", {}, "keep_latest"),
        (5, "keep_latest", {"interrupted": True}, None),
        (5, "keep_latest", {"pruned": True}, None),
        (None, "delete", {}, None),
    ],
)
def test_what_a_rule_asks_for_after_five_minutes(
    minutes: float | None, strategy: str, state: dict[str, bool], expected: str | None
) -> None:
    at = {"interrupted": False, "pruned": False, **state}
    ttl = Ttl(minutes, Strategy(strategy))
    assert falls_to(ttl, idle_minutes=5, **at) == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (None, None),
        (5, Ttl(5)),
        ({"ttl": 2.5}, Ttl(2.5)),
        ({"ttl": 1, "strategy": "keep_latest"}, Ttl(1, Strategy.KEEP_LATEST)),
    ],
)
def test_what_clients_send(sent: Any, expected: Ttl | None) -> None:
    assert asked_ttl(sent) == expected


@pytest.mark.parametrize(
    "sent", [0, -1, True, "5", {}, {"ttl": 1, "strategy": "x"}, float("nan"), 10**9]
)
def test_what_is_no_ttl_is_refused(sent: Any) -> None:
    with pytest.raises(InvalidRequest):
        asked_ttl(sent)


def test_what_langgraph_json_may_say() -> None:
    whole = {
        "strategy": "keep_latest",
        "default_ttl": 60,
        "sweep_interval_minutes": 10,
        "sweep_limit": 7,
    }
    assert ttl_defaults(whole, "ttl") == TtlDefaults(
        ttl=Ttl(60, Strategy.KEEP_LATEST), interval_minutes=10, round_max=7
    )
    assert ttl_defaults({"strategy": "delete"}, "ttl").ttl is None
    assert graph_ttl(None, "ttl") == FOR_EVER
    assert graph_ttl({"default_ttl": 5}, "ttl") == Ttl(5)
    of_defaults: list[Any] = [
        [],
        {"default": 1},
        {"default_ttl": -1},
        {"strategy": "x"},
        {"sweep_limit": 0},
    ]
    for wrong in of_defaults:
        with pytest.raises(BadSetting, match="ttl"):
            ttl_defaults(wrong, "ttl")
    of_graphs: list[Any] = [5, {}, {"sweep_limit": 1, "default_ttl": 1}]
    for wrong in of_graphs:
        with pytest.raises(BadSetting, match="ttl"):
            graph_ttl(wrong, "ttl")
