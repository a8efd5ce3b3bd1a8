"""Each promise names the tests that would fail without it.

That the tests exist is `test_docs_links`' business.
"""

from __future__ import annotations

import re
from pathlib import Path

from chaos.battery import ALL_FAULTS
from chaos.faults import FAULTS

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "guarantees.md"
# The battery's tests play several kinds of faults: those meant follow in brackets.
_TEST = r"`(?:tests|src/threadmill/testing/contracts)/[\w/.]+\.py::test_\w+`"
_SHOWS = rf"{_TEST}(?: \((?:`[^`]+`(?:, )?)+\))?"
_CELL = re.compile(rf"{_SHOWS}(?:, {_SHOWS})*")
_BATTERY = re.compile(r"`tests/chaos/test_battery\.py::\w+`(?: \([^|]*?`\))?")
_KIND = re.compile(r"[(,] ?`([^`]+)`")
_SHOWN = re.compile(r"Shown by:\n(- `tests/[\w/.]+::\w+`\n?)+")


def test_every_promise_names_its_tests() -> None:
    page = PAGE.read_text("utf-8")
    promised = page.partition("## Promised")[2].partition("\n## ")[0]
    promises = re.split(r"^\*\*(.+)\*\*$", promised, flags=re.MULTILINE)[1:]
    texts = dict(zip(promises[::2], promises[1::2], strict=True))
    assert texts
    assert [title for title, text in texts.items() if not _SHOWN.search(text)] == []


def test_every_row_names_a_test() -> None:
    """In its last cell, a function, and nothing else but the battery's kinds."""
    rows = _rows()
    assert rows
    assert [row for row in rows if not _CELL.fullmatch(row[-1])] == []


def test_what_the_battery_shows_is_named_by_kind() -> None:
    """A row that names the battery says which of its faults is meant."""
    played = [(row, _BATTERY.findall(row[-1])) for row in _rows()]
    kinds = [(row, _KIND.findall(each)) for row, found in played for each in found]
    assert [row for row, of_row in kinds if not of_row] == []
    named = {kind for _, of_row in kinds for kind in of_row}
    assert named <= ALL_FAULTS.keys()
    assert FAULTS.keys() - named == set(), "a kind of fault of which no row tells"


def _rows() -> list[list[str]]:
    """The cells of each row of the page's tables."""
    lines = PAGE.read_text("utf-8").splitlines()
    heads = {n - 1 for n, line in enumerate(lines) if line.startswith("|--")}
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for n, line in enumerate(lines)
        if line.startswith("| ") and n not in heads
    ]
