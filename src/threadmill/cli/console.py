"""What commands print for people: plain text, coloured where a terminal shows it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Literal, TextIO

import typer

from threadmill.logs import has_colour, redact

Colour = Literal["red", "yellow", "green", "cyan", "bright_black"]


def say(text: str = "") -> None:
    """Prints a line on standard output, at once."""
    print(text, flush=True)  # noqa: T201 - the command line's own output


def complain(text: str) -> None:
    """Prints an error on standard error, without the passwords that may stand in it."""
    head = paint("error:", "red", stream=sys.stderr)
    print(head, redact(text), file=sys.stderr, flush=True)  # noqa: T201


def paint(text: str, colour: Colour, *, stream: TextIO | None = None) -> str:
    """`text` in a colour, if `stream` (standard output when None) shows colours."""
    shown = has_colour(sys.stdout if stream is None else stream)
    return typer.style(text, fg=colour) if shown else text


def say_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under their headings, in columns."""
    lines = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        text = "  ".join(cells).rstrip()
        say(redact(text) if number else paint(text, "bright_black"))


def say_json(content: object) -> None:
    """Prints JSON for programs, without the passwords that may stand in it."""
    say(redact(json.dumps(content, indent=2, ensure_ascii=False)))


def can_show(text: str) -> bool:
    """Whether standard output's encoding has all of these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
