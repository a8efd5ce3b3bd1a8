"""Each promise names the tests that would fail without it.

That the tests exist is `test_docs_links`' business.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "guarantees.md"
_SHOWN = re.compile(r"Shown by:\n(- `tests/[\w/.]+::\w+`\n?)+")


def test_every_promise_names_its_tests() -> None:
    page = PAGE.read_text("utf-8")
    promised = page.partition("## Promised")[2].partition("\n## ")[0]
    promises = re.split(r"^\*\*(.+)\*\*$", promised, flags=re.MULTILINE)[1:]
    texts = dict(zip(promises[::2], promises[1::2], strict=True))
    assert texts
    assert [title for title, text in texts.items() if not _SHOWN.search(text)] == []


def test_every_row_of_what_dies_names_a_test() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    heads = [n for n, line in enumerate(lines) if line.startswith("|--")]
    titles = {lines[n - 1] for n in heads}
    assert rows
    assert [row for row in rows if row not in titles and "`tests/" not in row] == []
