"""Every kind of graph, plainly and by the engine, undisturbed and with faults.

A fault strikes at the first commit of every turn, then at the second, and so on until
no turn is long enough. There are four kinds of faults and two dispatches. By default a
scenario meets one kind in one dispatch, by turns, the simple ones in both;
THREADMILL_PARITY=full lets each meet all of them. Who takes which task, in which order,
and who else meets a fault, is drawn from THREADMILL_PARITY_SEED.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.engine.engine_store import EngineStore
from tests.engine.parity import flows, forks, nesting, pauses, policies, states
from tests.engine.parity.harness import EngineStory, Scenario, Told, tell_plainly
from threadmill.testing.process import FaultKind

pytestmark = pytest.mark.langgraph

# More commits than any turn makes.
_COMMITS_MAX = 80

SCENARIOS = [
    scenario
    for module in (flows, nesting, pauses, forks, policies, states)
    for scenario in module.SCENARIOS
    if scenario.is_told_right
]
NAMES = [scenario.name for scenario in SCENARIOS]

_KINDS = list(FaultKind)
_EVERY = [
    (scenario, dispatch, kind)
    for scenario in SCENARIOS
    for dispatch in ("burst", "node")
    for kind in _KINDS
]
_SOME = [
    (scenario, dispatch, _KINDS[(number + offset) % len(_KINDS)])
    for number, scenario in enumerate(SCENARIOS)
    for offset, dispatch in enumerate(("burst", "node"))
    if scenario in flows.SCENARIOS or number % 2 == offset
]
FULL = os.environ.get("THREADMILL_PARITY") == "full"
CASES = _EVERY if FULL else _SOME
SPREAD = [
    (scenario, kind)
    for n, scenario in enumerate(SCENARIOS)
    for kind in (_KINDS if FULL else [_KINDS[n % len(_KINDS)]])
]
# The same draws each time, so that a failure is one; others by hand.
SEED = int(os.environ.get("THREADMILL_PARITY_SEED", "0"))
# Where values lie concerns how a commit stores them, so every third will do.
IN_REDIS = SCENARIOS if FULL else SCENARIOS[::3]

Plain = dict[str, Sequence[Told]]


@pytest.fixture(scope="session")
def told_plainly() -> Plain:
    """The stories by LangGraph alone: each is told once."""
    return {}


async def _plain(scenario: Scenario, known: Plain) -> Sequence[Told]:
    if scenario.name not in known:
        known[scenario.name] = await tell_plainly(scenario)
    return known[scenario.name]


def _compare(
    scenario: Scenario,
    plain: Sequence[Told],
    told: Sequence[Told],
    kind: FaultKind = FaultKind.KILL_BEFORE,
) -> None:
    kills = kind in {FaultKind.KILL_BEFORE, FaultKind.KILL_AFTER}
    exact = scenario.exact and (kills or scenario.exact_when_away)
    for turn, (expected, actual) in enumerate(zip(plain, told, strict=True)):
        assert actual.outcome == expected.outcome, f"turn {turn}"
        assert actual.state == expected.state, f"turn {turn}"
        assert actual.history == expected.history, f"turn {turn}"
        if not scenario.same_events:
            continue
        places = expected.events.keys() | actual.events.keys()
        for place in places if exact else [""]:
            _compare_events(expected.events.get(place), actual.events.get(place))


def _compare_events(expected: Any, actual: Any) -> None:
    missing, extra = _difference(expected, actual), _difference(actual, expected)
    assert not missing, f"not told: {missing}"
    assert not extra, f"told too often: {extra}"
    assert actual == expected


def _difference(left: Any, right: Any) -> list[str]:
    return list((Counter(_lines(left)) - Counter(_lines(right))).elements())


def _lines(told: Any) -> Iterator[str]:
    for part in told or ():
        yield from [part] if isinstance(part, str) else part


@pytest.mark.parametrize("dispatch", ["burst", "node"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
async def test_undisturbed(
    engine_store: EngineStore, told_plainly: Plain, scenario: Scenario, dispatch: str
) -> None:
    """Also the node calls are the same in number."""
    plain = await _plain(scenario, told_plainly)
    story = EngineStory(engine_store, scenario, node=dispatch == "node")
    told = await story.tell()
    _compare(scenario, plain, told)
    assert [t.calls for t in told] == [t.calls for t in plain]
    assert scenario.replays or story.ledger.wrong == []


# LangGraph drops unawaited what queues for `max_concurrency` when it is stopped.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("scenario", "dispatch", "kind"),
    CASES,
    ids=[f"{s.name}-{dispatch}-{kind}" for s, dispatch, kind in CASES],
)
async def test_a_fault_at_every_commit(
    engine_store: EngineStore,
    told_plainly: Plain,
    scenario: Scenario,
    dispatch: str,
    kind: FaultKind,
) -> None:
    plain = await _plain(scenario, told_plainly)
    await _with_faults(
        plain,
        lambda commit: EngineStory(
            engine_store, scenario, node=dispatch == "node", kind=kind, commit=commit
        ),
    )


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
async def test_spread_over_processes(
    engine_store: EngineStore, told_plainly: Plain, scenario: Scenario
) -> None:
    """Any task of a superstep in any process, in any order, and each once."""
    plain = await _plain(scenario, told_plainly)
    seed = SEED + NAMES.index(scenario.name)
    story = EngineStory(engine_store, scenario, node=seed % 2 == 1, spread=seed)
    told = await story.tell()
    _compare(scenario, plain, told)
    assert [t.calls for t in told] == [t.calls for t in plain]
    assert scenario.replays or story.ledger.wrong == []


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("scenario", "kind"),
    SPREAD,
    ids=[f"{s.name}-{kind}" for s, kind in SPREAD],
)
async def test_spread_with_a_fault_at_every_commit(
    engine_store: EngineStore, told_plainly: Plain, scenario: Scenario, kind: FaultKind
) -> None:
    plain = await _plain(scenario, told_plainly)
    await _with_faults(
        plain, lambda commit: _spread(engine_store, scenario, plain, kind, commit)
    )


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("engine_store", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("scenario", "kind"),
    [(s, _KINDS[n % len(_KINDS)]) for n, s in enumerate(IN_REDIS, start=1)],
    ids=[s.name for s in IN_REDIS],
)
async def test_the_same_with_values_in_redis(
    engine_store: EngineStore, told_plainly: Plain, scenario: Scenario, kind: FaultKind
) -> None:
    plain = await _plain(scenario, told_plainly)
    await _with_faults(
        plain, lambda commit: _spread(engine_store, scenario, plain, kind, commit)
    )


def _spread(
    store: EngineStore,
    scenario: Scenario,
    plain: Sequence[Told],
    kind: FaultKind,
    commit: int,
) -> EngineStory:
    # An error ends a superstep: what it finds done depends on who has lost what.
    fails = any(isinstance(told.outcome, list) for told in plain)
    return EngineStory(
        store,
        scenario,
        node=commit % 2 == SEED % 2,
        spread=SEED + commit,
        kind=kind,
        commit=commit,
        twice=not fails,
    )


async def _with_faults(
    plain: Sequence[Told], story_with: Callable[[int], EngineStory]
) -> None:
    """Tells a story once for each commit that a fault may strike at."""
    for commit in range(1, _COMMITS_MAX):
        story = story_with(commit)
        try:
            told = await story.tell()
            assert story.fault is not None
            _compare(story.scenario, plain, told, story.fault.kind)
            assert story.scenario.replays or story.ledger.wrong == []
        except BaseException as error:
            error.add_note(f"with the fault at commit {commit}")
            raise
        if not story.faulted:
            return
    pytest.fail("a turn with so many commits")
