"""The doctor's rules, over made-up facts."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from threadmill.engine.doctor import (
    LANGGRAPH_RANGE,
    Finding,
    Needs,
    Verdict,
    judge_langgraph,
    judge_route,
    judge_schema,
    judge_server,
)
from threadmill.stores.inspection import (
    RoleFacts,
    SchemaFacts,
    ServerFacts,
    TableFacts,
)

NEEDS = Needs(pool_max=10, lease_seconds=10, prepared=True)
SERVER = ServerFacts(
    version=180004,
    version_text="18.4",
    identity=(datetime(2026, 1, 1, tzinfo=UTC), 5),
    standby=False,
    pooled=False,
    shared=False,
    fsync=True,
    full_page_writes=True,
    synchronous_commit="on",
    connections=97,
    clock_ahead_seconds=0.0,
    clock_error_seconds=0.001,
)
APP = RoleFacts(name="threadmill_app", exists=True)
DISPATCHER = RoleFacts(name="threadmill_dispatcher", exists=True)
TABLE = TableFacts(name="run", enabled=True, forced=True, scoped=True)
SCHEMA = SchemaFacts(roles=[APP, DISPATCHER], tables=[TABLE])


def server(**changes: object) -> dict[str, Finding]:
    facts = replace(SERVER, **changes)  # type: ignore[arg-type]
    return {finding.check: finding for finding in judge_server(facts, NEEDS)}


def schema(*pending: str, **changes: object) -> dict[str, Finding]:
    facts = replace(SCHEMA, **changes)  # type: ignore[arg-type]
    return {finding.check: finding for finding in judge_schema(facts, pending)}


def test_a_good_database_has_nothing_to_mend() -> None:
    findings = [
        *server().values(),
        judge_route(SERVER, None, NEEDS),
        *schema().values(),
    ]
    assert {finding.verdict for finding in findings} == {Verdict.OK}
    assert {finding.remedy for finding in findings} == {None}


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        (140012, Verdict.FAILED),
        (150000, Verdict.OK),
        (180004, Verdict.OK),
        (190001, Verdict.WARNING),
    ],
)
def test_postgresql_15_to_18_are_supported(version: int, verdict: Verdict) -> None:
    assert server(version=version)["database"].verdict is verdict


def test_a_standby_cannot_be_the_database() -> None:
    assert "standby" in server(standby=True)["database"].detail


@pytest.mark.parametrize(
    ("name", "value"),
    [("fsync", False), ("full_page_writes", False), ("synchronous_commit", "off")],
)
def test_accepted_must_mean_durable(name: str, value: object) -> None:
    finding = server(**{name: value})["durability"]
    assert finding.verdict is Verdict.FAILED
    assert f"{name} = on" in (finding.remedy or "")


@pytest.mark.parametrize(
    ("ahead_seconds", "verdict"),
    [
        (0.9, Verdict.OK),
        (-0.9, Verdict.OK),
        (1.5, Verdict.WARNING),
        (-4.9, Verdict.WARNING),
        (5.5, Verdict.FAILED),
        (-3600, Verdict.FAILED),
    ],
)
def test_a_clock_may_be_a_second_off_and_never_half_a_lease(
    ahead_seconds: float, verdict: Verdict
) -> None:
    finding = server(clock_ahead_seconds=ahead_seconds)["clock"]
    assert finding.verdict is verdict
    assert ("ahead of" in finding.detail) is (ahead_seconds > 0)


def test_a_slow_round_trip_is_no_skew() -> None:
    finding = server(clock_ahead_seconds=1.5, clock_error_seconds=1.0)["clock"]
    assert finding.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("connections", "verdict"),
    [(13, Verdict.FAILED), (28, Verdict.WARNING), (42, Verdict.OK)],
)
def test_the_processes_must_fit(connections: int, verdict: Verdict) -> None:
    assert server(connections=connections)["connections"].verdict is verdict


def test_a_transaction_pooler_needs_settings_of_its_own() -> None:
    pooler = replace(SERVER, pooled=True, shared=True)
    finding = judge_route(pooler, None, NEEDS)
    assert finding.verdict is Verdict.FAILED
    assert "THREADMILL_PREPARED_STATEMENTS=false" in (finding.remedy or "")
    unprepared = replace(NEEDS, prepared=False)
    assert judge_route(pooler, None, unprepared).verdict is Verdict.WARNING
    assert judge_route(pooler, SERVER, unprepared).verdict is Verdict.OK


def test_a_session_pooler_is_no_problem() -> None:
    assert judge_route(replace(SERVER, pooled=True), None, NEEDS).verdict is Verdict.OK


def test_the_direct_way_must_be_direct_and_lead_to_the_same_database() -> None:
    pooled = judge_route(SERVER, replace(SERVER, pooled=True), NEEDS)
    assert "through a pooler" in pooled.detail
    other = replace(SERVER, identity=(SERVER.identity[0], 6))
    assert "another database" in judge_route(SERVER, other, NEEDS).detail


def test_without_the_schema_nothing_more_is_said() -> None:
    findings = schema("0001_initial", roles=[], tables=[])
    assert "threadmill migrate" in (findings["schema"].remedy or "")
    assert findings["roles"].verdict is Verdict.SKIPPED
    assert findings["row-level security"].verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("role", "text"),
    [
        (replace(APP, exists=False), "does not exist"),
        (replace(APP, bypasses=True), "passes row-level security by"),
        (replace(DISPATCHER, bypasses=True), "passes row-level security by"),
        (replace(APP, refusal="permission denied"), "may not become"),
    ],
)
def test_roles_must_exist_obey_and_be_open_to_the_login(
    role: RoleFacts, text: str
) -> None:
    finding = schema(roles=[role])["roles"]
    assert finding.verdict is Verdict.FAILED
    assert text in finding.detail


def test_a_login_that_may_not_look_is_told_the_grant_and_nothing_else() -> None:
    denied = [replace(APP, refusal="permission denied"), DISPATCHER]
    findings = schema(roles=denied)
    assert findings["roles"].verdict is Verdict.FAILED
    assert (findings["roles"].remedy or "").startswith("GRANT threadmill_app TO")
    assert findings["schema"].verdict is Verdict.SKIPPED
    assert findings["row-level security"].verdict is Verdict.SKIPPED
    # Where nothing is, there is something else to do first.
    empty = schema("0001_initial", roles=denied, tables=[])
    assert empty["schema"].remedy == "run `threadmill migrate`"


def test_a_direct_way_that_leads_nowhere_is_named() -> None:
    finding = judge_route(SERVER, "no answer", NEEDS)
    assert finding.verdict is Verdict.FAILED
    assert "DATABASE_URI_DIRECT" in (finding.remedy or "")


def test_only_migrations_become_the_dispatcher() -> None:
    roles = [APP, replace(DISPATCHER, refusal="permission denied")]
    assert schema(roles=roles)["roles"].verdict is Verdict.OK


@pytest.mark.parametrize("flag", ["enabled", "forced", "scoped"])
def test_every_table_must_keep_tenants_apart(flag: str) -> None:
    weak = replace(TABLE, name="event", **{flag: False})
    finding = schema(tables=[TABLE, weak])["row-level security"]
    assert finding.verdict is Verdict.FAILED
    assert "event" in finding.detail


def test_rows_that_show_without_a_tenant_are_wrong() -> None:
    assert schema(leaking=["run"])["row-level security"].verdict is Verdict.FAILED
    assert schema(unreadable="denied")["row-level security"].verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("1.2.15", Verdict.FAILED),
        ("1.2.16", Verdict.OK),
        ("1.2.99", Verdict.OK),
        ("1.3.0", Verdict.FAILED),
        ("2.0", Verdict.FAILED),
    ],
)
def test_langgraph_must_be_one_that_is_supported(
    version: str, verdict: Verdict
) -> None:
    assert judge_langgraph(version, None).verdict is verdict


def test_langgraph_must_pass_the_self_test_of_the_engine() -> None:
    finding = judge_langgraph("1.2.16", "it does not park")
    assert (finding.verdict, finding.detail) == (Verdict.FAILED, "it does not park")


def test_the_supported_langgraph_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    low, high = (".".join(map(str, bound)) for bound in LANGGRAPH_RANGE)
    assert f"langgraph>={low},<{high}" in project["project"]["dependencies"]
