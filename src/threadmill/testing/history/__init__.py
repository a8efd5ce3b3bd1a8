"""Checks what a deployment did against what it promises: invariants I1 to I10.

Clients write down what they asked for, what they were answered and what they saw
(`log`). When the load is over, the database is read (`reading`), and rules that know
neither a database nor a clock compare the two (`rules`). A rule never trusts the code
that it judges: it looks at rows, at what clients saw, and at nothing else.

::

    python -m threadmill.testing.history --log clients.jsonl

What it needs of a graph: a channel to which each message is appended once and stays.
What it does not see: side effects outside of the database.
"""

from threadmill.testing.history.facts import History
from threadmill.testing.history.log import HistoryLog, read_logs
from threadmill.testing.history.rules import check, judge
from threadmill.testing.history.verdict import Finding, Invariant, Violation

__all__ = [
    "Finding",
    "History",
    "HistoryLog",
    "Invariant",
    "Violation",
    "check",
    "judge",
    "read_logs",
]
