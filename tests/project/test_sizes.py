"""The size check finds what is too large, and exemptions that nobody needs."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/check_sizes.py"
complaints = runpy.run_path(str(SCRIPT))["complaints"]


def test_long_modules_and_functions_are_named(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    body = "    pass\n" * 70
    (tmp_path / "src/long.py").write_text("def f():\n" + body + "\n" * 440)
    assert list(complaints(tmp_path, {})) == [
        "src/long.py has 511 lines, more than 500: split it",
        "src/long.py:f has 71 lines, more than 70: split it",
    ]


def test_an_exemption_needs_a_reason_and_a_need(tmp_path: Path) -> None:
    exempted = {"src/gone.py": "was long once"}
    assert list(complaints(tmp_path, exempted)) == [
        "src/gone.py needs no exemption: remove it from size_exemptions.txt"
    ]
