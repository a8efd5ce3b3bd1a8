"""Ten thousand schedules of the coordination core, and that each can be had again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.plan import plan_of
from tests.simulation.simulation import Build, Outcome, rarely_collecting, simulate
from tests.simulation.store.tables import Tables

_ROOT = Path(__file__).resolve().parents[2]
# So many tests of so many seeds: they share themselves out evenly among two or three of
# pytest's workers.
_TESTS, _SEEDS = 24, 417

# What every test must have met: schedules in which nothing goes wrong prove nothing.
_MET = frozenset(
    {
        "attempt.fenced",
        "attempt.store_unavailable",
        "blocks its loop",
        "cancel refused: not_found",
        "commit refused: lease_lost",
        "freezes",
        "has drained",
        "is killed",
        "meets a fault at claim.after",
        "meets a fault at commit.after",
        "meets a fault at finish.before",
        "restart",
        "runs ended by cancel",
        "runs ended by expire",
        "runs ended by fail",
        "runs ended by succeed",
        "sweep.member_gone",
        "supersteps joined by who ended the last task",
        "slots filled by a hand-over",
        "supersteps spread",
        "sweep.reopened",
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(_TESTS))
def test_whatever_happens_all_invariants_hold(part: int) -> None:
    """At most one holder writes, and what was accepted ends once, in its order."""
    met: Counter[str] = Counter()
    with rarely_collecting():
        for seed in range(part * _SEEDS, (part + 1) * _SEEDS):
            outcome = simulate(plan_of(seed))
            assert not outcome.violations, outcome.report()
            met.update(outcome.counts)
    assert met.keys() >= _MET, f"never met: {sorted(_MET - met.keys())}"


@pytest.mark.slow
def test_a_seed_gives_one_trace_byte_for_byte() -> None:
    """Also in another interpreter, which orders its sets otherwise."""
    play = [sys.executable, "-m", "tests.simulation", "--verbose", "--seed", "12"]
    traces = [
        subprocess.run(
            play,
            cwd=_ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert traces[0].count(b"\n") > 50


def test_seeds_give_the_same_again_whatever_was_played_before() -> None:
    first = {seed: list(simulate(plan_of(seed)).trace()) for seed in range(20)}
    for seed in reversed(first):
        assert list(simulate(plan_of(seed)).trace()) == first[seed]


def test_a_failing_seed_says_how_to_see_it_again() -> None:
    class NothingIsReady(Tables):
        def ready(self, *_: Any, **__: Any) -> list:
            return []

    outcome = simulate(plan_of(3), Build(tables=NothingIsReady))
    assert isinstance(outcome, Outcome)
    assert "it does not end" in outcome.report()
    assert "python -m tests.simulation --verbose --seed 3" in outcome.report()
