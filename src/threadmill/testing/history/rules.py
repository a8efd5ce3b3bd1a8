"""All rules together. Each is a pure function in `promises` or `traces`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from threadmill.testing.history import promises, traces
from threadmill.testing.history.facts import History
from threadmill.testing.history.verdict import Finding, Violation

RULES: Final[Sequence[Callable[[History], Finding]]] = (
    promises.applied_once,
    promises.in_order,
    traces.one_path,
    traces.tokens_rise,
    traces.one_result,
    promises.reads_monotonic,
    traces.streams_whole,
    traces.all_ended,
    promises.balanced,
    promises.tenants_apart,
)


def judge(history: History) -> list[Finding]:
    """What each rule found, I1 first."""
    return [rule(history) for rule in RULES]


def check(history: History) -> list[Violation]:
    """Every violation; empty if the history keeps all promises."""
    return [violation for found in judge(history) for violation in found.violations]
