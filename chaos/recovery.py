"""How long it took until work went on, from what nodes and clients have logged."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise

from chaos.arena import Outage
from threadmill.testing.history.facts import Execution, Fault, History


def recoveries(
    history: History, outages: Sequence[Outage], workers: AbstractSet[int]
) -> Mapping[str, Sequence[float]]:
    """Seconds by kind of fault.

    * A worker's: from the fault to the next beginning, elsewhere, of each task that it
      was at. What several faults may have caused counts for the first.
    * A server's: from the fault to the next message that is acknowledged.
    * Of the whole database: from the fault to the next beginning of any node.

    Args:
        history: read.
        outages: when the database was away.
        workers: the process ids of all workers there were.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    acknowledged = sorted(
        message.ended_at for message in history.messages if message.ended_at is not None
    )
    faults = sorted(history.faults, key=lambda fault: fault.at)
    for one, two in _repetitions(history):
        cause = next((f for f in faults if _befell(f, one) and f.at <= two.at), None)
        if cause is not None and cause.pid is not None and two.pid != cause.pid:
            found[cause.kind].append(two.at - cause.at)
    for fault in history.faults:
        if fault.pid is not None and fault.pid not in workers:
            found[fault.kind] += _next(acknowledged, fault.at, since=fault.at)
    begun = sorted(execution.at for execution in history.executions)
    for outage in outages:
        found[outage.kind] += _next(begun, outage.down_at, since=outage.at)
    return found


def _befell(fault: Fault, execution: Execution) -> bool:
    return fault.at >= execution.at and fault.pid in {None, execution.pid}


def _next(times: Sequence[float], after: float, *, since: float) -> list[float]:
    following = bisect_right(times, after)
    return [times[following] - since] if following < len(times) else []


def _repetitions(history: History) -> Iterator[tuple[Execution, Execution]]:
    tasks: defaultdict[tuple[str, str], list[Execution]] = defaultdict(list)
    for execution in history.executions:
        tasks[execution.run, execution.task].append(execution)
    for begun in tasks.values():
        yield from pairwise(sorted(begun, key=lambda execution: execution.at))
