"""The verdict as a table, and its first counterexample in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from threadmill.testing.history.facts import History
from threadmill.testing.history.verdict import PROMISES, Finding


def verdict_table(findings: Sequence[Finding]) -> Table:
    """A row per invariant: how many facts were looked at, and what was found."""
    table = Table(title="invariants")
    table.add_column("")
    table.add_column("promise")
    table.add_column("facts", justify="right")
    table.add_column("violations", justify="right")
    for found in findings:
        number = len(found.violations)
        shown = f"[red]{number}[/red]" if number else "0" if found.facts else "-"
        table.add_row(
            found.invariant, PROMISES[found.invariant], str(found.facts), shown
        )
    return table


def loss_lines(history: History) -> list[str]:
    """What windows of loss have cost; nothing without one."""
    if not history.losses:
        return []
    lost = sum(map(history.is_lost, history.messages))
    seconds = sum(loss.until - loss.at for loss in history.losses)
    windows = f"{len(history.losses)} windows of loss ({seconds:.1f} s)"
    return [f"{lost} acknowledged messages are lost, each within one of {windows}"]


def verdict_lines(findings: Sequence[Finding]) -> list[str]:
    """One line that sums up, and each invariant's first counterexample."""
    broken = [found for found in findings if found.violations]
    count = sum(len(found.violations) for found in broken)
    facts = sum(found.facts for found in findings)
    if not broken:
        return [f"no violation in {facts} facts"]
    head = f"{count} violations of {', '.join(found.invariant for found in broken)}"
    return [head, *(str(found.violations[0]) for found in broken)]
