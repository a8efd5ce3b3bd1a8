"""How supersteps are shared: wide ones by workers, and long rows node by node."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rich.table import Table

from bench.wide import NODES

Ask = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


@dataclass(frozen=True)
class Case:
    """One question to all contenders.

    Args:
        title: as shown.
        graph: which graph.
        given: its input.
        per: divides the time that is shown.
        at_once: so many clients ask, each for a thread of its own.
    """

    title: str
    graph: str
    given: Mapping[str, Any]
    per: int = 1
    at_once: int = 1


# More than the slots of the workers that share them.
_ROWS = 24
CASES = (
    Case("100 empty tasks, per task", "wide", {"tasks": 100, "seconds": 0.0}, 100),
    Case("20 tasks of 50 ms", "wide", {"tasks": 20, "seconds": 0.05}),
    Case("24 tasks of 0.5 s", "wide", {"tasks": 24, "seconds": 0.5}),
    Case(f"row of {NODES} nodes, per node", "long", {}, NODES),
    Case(
        f"{_ROWS} such rows at once, per node", "long", {}, NODES * _ROWS, at_once=_ROWS
    ),
)


@dataclass
class Shared:
    """What one contender did in one case.

    Args:
        seconds: of each time that it was asked.
        elsewhere: the share of tasks, or of steps from node to node, that did not stay
            with the process of the first, or of the one before.
    """

    seconds: list[float] = field(default_factory=list)
    elsewhere: list[float] = field(default_factory=list)


async def ask(case: Case, contender: Ask, into: Shared) -> None:
    """Asks, and waits for all answers."""
    started = time.perf_counter()
    answers = await asyncio.gather(
        *(contender(case.graph, case.given) for _ in range(case.at_once))
    )
    into.seconds.append(time.perf_counter() - started)
    moved: list[bool] = []
    for values in answers:
        ran = values["ran"]
        assert len(ran) == case.given.get("tasks", NODES), values
        if case.graph == "long":
            moved += [one != other for one, other in pairwise(ran)]
        else:
            most = max(ran.count(pid) for pid in ran)
            moved += [True] * (len(ran) - most) + [False] * most
    into.elsewhere.append(sum(moved) / len(moved))


def table(results: Mapping[str, Sequence[Shared]]) -> Table:
    """One column per contender, ratios to the first; a row per case of `CASES`."""
    shown = Table(title="supersteps that are shared (p50; in brackets the ratio)")
    shown.add_column("")
    for name in results:
        shown.add_column(name, justify="right")
    for number, case in enumerate(CASES):
        medians = [
            statistics.median(cases[number].seconds) / case.per * 1e3
            for cases in results.values()
        ]
        first = medians[0]
        shown.add_row(
            case.title,
            f"{first:.2f} ms",
            *(f"{median:.2f} ms ({median / first:.2f}x)" for median in medians[1:]),
        )
        shares = [statistics.mean(c[number].elsewhere) for c in results.values()]
        title = "  of these hops to another process"
        if case.graph == "wide":
            title = "  of these not on the busiest worker"
        shown.add_row(title, *(f"{share:.0%}" for share in shares), style="dim")
    return shown
