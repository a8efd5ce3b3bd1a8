"""Plays schedules from the command line: `python -m tests.simulation --help`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.plan import plan_of
from tests.simulation.simulation import rarely_collecting, simulate


def main() -> int:
    """Plays one seed, or many; 1 if something is violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="play this one only")
    parser.add_argument("--seeds", type=int, default=1000, help="play so many")
    parser.add_argument("--first", type=int, default=0, help="beginning with this one")
    parser.add_argument("--verbose", "-v", action="store_true", help="print the trace")
    options = parser.parse_args()
    if options.seed is not None:
        return play_one(options.seed, verbose=options.verbose)
    return play_many(range(options.first, options.first + options.seeds))


def play_one(seed: int, *, verbose: bool) -> int:
    """Plays a seed and tells what happened."""
    outcome = simulate(plan_of(seed))
    if verbose:
        print(*outcome.trace(), sep="\n")
    print(outcome.report() if outcome.violations else f"seed {seed}: no violation")
    return bool(outcome.violations)


def play_many(seeds: range) -> int:
    """Plays seeds and tells what was met on the way."""
    began, counts, wrong, world = time.perf_counter(), Counter[str](), 0, 0.0
    with rarely_collecting():
        for seed in seeds:
            outcome = simulate(plan_of(seed))
            counts.update(outcome.counts)
            world += outcome.seconds
            if outcome.violations:
                wrong += 1
                print(outcome.report())
    took = time.perf_counter() - began
    for what, n in sorted(counts.items()):
        print(f"{n:10}  {what}")
    print(
        f"{len(seeds)} schedules, {world:.0f} simulated seconds, in {took:.1f} s "
        f"({len(seeds) / took:.0f} per second); {wrong} with violations"
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
