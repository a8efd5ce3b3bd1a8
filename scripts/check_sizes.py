"""Keep modules and functions small enough to be read at one go.

A module has at most 500 lines and a function at most 70. What is larger has a line
with its reason in size_exemptions.txt. Exits with 1 and names every offender, and
every exemption that is not needed (any more).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
FOLDERS = ("src", "tests", "chaos", "examples", "bench", "scripts")

ROOT = Path(__file__).resolve().parent.parent
EXEMPTIONS = Path(__file__).with_name("size_exemptions.txt")


def oversized(root: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (name, lines, allowed lines) of everything that is too large."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            text = path.read_text()
            lines = text.count("\n")
            if lines > MODULE_LINES_MAX:
                yield name, lines, MODULE_LINES_MAX
            for node in ast.walk(ast.parse(text, name)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    if lines > FUNCTION_LINES_MAX:
                        yield f"{name}:{node.name}", lines, FUNCTION_LINES_MAX


def exemptions(text: str) -> dict[str, str]:
    """Return the reason for each exempted name."""
    entries = (line.split(maxsplit=1) for line in text.splitlines())
    return {
        entry[0]: entry[1] if len(entry) > 1 else ""
        for entry in entries
        if entry and not entry[0].startswith("#")
    }


def complaints(root: Path, exempted: dict[str, str]) -> Iterator[str]:
    """Yield one sentence for everything that is wrong."""
    found = {name: (lines, allowed) for name, lines, allowed in oversized(root)}
    for name, (lines, allowed) in found.items():
        if name not in exempted:
            yield f"{name} has {lines} lines, more than {allowed}: split it"
    for name, reason in exempted.items():
        if name not in found:
            yield f"{name} needs no exemption: remove it from {EXEMPTIONS.name}"
        elif not reason:
            yield f"{name} is exempted without a reason: add it in {EXEMPTIONS.name}"


def main() -> int:
    """Print the complaints and return the exit code."""
    wrong = list(complaints(ROOT, exemptions(EXEMPTIONS.read_text())))
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if not wrong:
        print("sizes: all modules and functions are within the limits")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
