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
