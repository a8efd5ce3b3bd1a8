"""Every kind of graph, plainly and by the engine, undisturbed and killed everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.engine.engine_store import EngineStore
from tests.engine.parity import flows
from tests.engine.parity.harness import EngineStory, Scenario, Told, tell_plainly
from threadmill.testing.engine import FaultKind

# More commits than any turn makes.
_COMMITS_MAX = 60

SCENARIOS = [*flows.SCENARIOS]


def _compare(scenario: Scenario, plain: Sequence[Told], told: Sequence[Told]) -> None:
    for turn, (expected, actual) in enumerate(zip(plain, told, strict=True)):
        assert actual.outcome == expected.outcome, f"turn {turn}"
        assert actual.state == expected.state, f"turn {turn}"
        assert actual.history == expected.history, f"turn {turn}"
        assert actual.events.get("") == expected.events.get(""), f"turn {turn}"
        if scenario.exact:
            assert actual.events == expected.events, f"turn {turn}"


def _names(scenarios: Sequence[Scenario]) -> list[str]:
    return [scenario.name for scenario in scenarios]


@pytest.mark.langgraph
@pytest.mark.parametrize("dispatch", ["burst", "node"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=_names(SCENARIOS))
async def test_undisturbed(
    engine_store: EngineStore, scenario: Scenario, dispatch: str
) -> None:
    plain = await tell_plainly(scenario)
    story = EngineStory(engine_store, scenario, node=dispatch == "node")
    told = await story.tell()
    _compare(scenario, plain, told)
    if scenario.same_calls:
        assert [t.calls for t in told] == [t.calls for t in plain]
    assert story.ledger.wrong == []


@pytest.mark.langgraph
@pytest.mark.parametrize("kind", list(FaultKind))
@pytest.mark.parametrize("dispatch", ["burst", "node"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=_names(SCENARIOS))
async def test_a_fault_at_every_commit(
    engine_store: EngineStore, scenario: Scenario, dispatch: str, kind: FaultKind
) -> None:
    plain = await tell_plainly(scenario)
    for commit in range(1, _COMMITS_MAX):
        story = EngineStory(
            engine_store, scenario, node=dispatch == "node", kind=kind, commit=commit
        )
        told = await story.tell()
        _compare(scenario, plain, told)
        assert story.ledger.wrong == [], f"commit {commit}"
        if not story.faulted:
            return
    pytest.fail("a turn with so many commits")
