"""What the battery prints when it is over."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from chaos.arena import Arena
from chaos.memory import KIND
from chaos.recovery import recoveries
from threadmill.testing.history import Finding, History
from threadmill.testing.history.report import loss_lines, verdict_lines, verdict_table


def print_report(
    console: Console, arena: Arena, history: History, findings: Sequence[Finding]
) -> None:
    """Faults and recovery by kind, messages, invariants, and the counterexamples."""
    workers = {p.pid for p in arena.fleet.processes if p.role == "worker"}
    times = recoveries(history, arena.outages, workers)
    console.print(_faults(arena.injected, arena.skipped, times))
    runs = Counter(run.status for thread in history.threads for run in thread.runs)
    answers = Counter(str(message.outcome) for message in history.messages)
    repeated = len(history.executions) - len(
        {(execution.run, execution.task) for execution in history.executions}
    )
    console.print(
        f"messages: {answers['ok']} accepted, {answers['fail']} rejected, "
        f"{answers['unknown']} unknown; runs: "
        + ", ".join(f"{number} {status}" for status, number in sorted(runs.items()))
        + f"; nodes begun: {len(history.executions)}, of these repeated: {repeated}"
    )
    for kind, counted in arena.notes.items():
        told = ", ".join(f"{times} {what}" for what, times in counted.items())
        console.print(f"{kind}: {told}", highlight=False)
    if arena.injected[KIND]:
        console.print(arena.memory.told(), highlight=False)
    console.print(verdict_table(findings))
    for line in [*loss_lines(history), *verdict_lines(findings)]:
        console.print(line, markup=False, highlight=False)


def _faults(
    injected: Counter[str],
    skipped: Mapping[str, str],
    times: Mapping[str, Sequence[float]],
) -> Table:
    table = Table(title="faults, and seconds until work went on elsewhere")
    table.add_column("fault")
    for name in ("times", "seen", "p50", "p99", "max"):
        table.add_column(name, justify="right")
    for kind, number in sorted(injected.items()):
        seen = sorted(times.get(kind, ()))
        cells = ["", "", ""]
        if seen:
            rank = min(len(seen) - 1, int(len(seen) * 0.99))
            cells = [
                f"{t:.2f}" for t in (statistics.median(seen), seen[rank], seen[-1])
            ]
        table.add_row(kind, str(number), str(len(seen)), *cells)
    for kind, why in skipped.items():
        table.add_row(kind, f"skipped: {why}")
    table.add_row("all", str(injected.total()))
    return table
