"""The page on stuck runs lists every answer that `threadmill why` may give."""

from __future__ import annotations

import re
from pathlib import Path

from threadmill.domain.why import Reason

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "debug-a-stuck-run.md"
_REASON = re.compile(r"^\| `([a-z_]+)` \|", re.MULTILINE)


def test_every_reason_is_on_the_page_and_no_other() -> None:
    text = PAGE.read_text("utf-8")
    listed = _REASON.findall(text[: text.index("## What the logs say")])
    assert sorted(listed) == sorted(Reason)
