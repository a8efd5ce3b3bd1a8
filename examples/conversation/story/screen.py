"""What the story prints: chapters, facts, and claims that were checked.

On a terminal with colours and with progress while something starts; elsewhere plain
text. A claim is printed only after it was found true.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Untrue(Exception):
    """Something that the story was about to claim is not so."""

    def __init__(self, claim: str, *, expected: object, found: object) -> None:
        super().__init__(f"{claim}: expected {expected!r}, found {found!r}")


class Screen:
    """Where the story is told; counts the claims."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character shows something else instead.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        self._console = Console(highlight=False, soft_wrap=True)
        self.checked = 0

    def title(self, text: str) -> None:
        """The first line."""
        self._console.print(text, style="bold", markup=False)

    def chapter(self, number: int, text: str) -> None:
        """Begins a step of the story."""
        self._console.print()
        self._console.print(f"{number}. {text}", style="bold cyan", markup=False)

    def say(self, text: str) -> None:
        """Explains."""
        self._console.print(f"   {text}", style="dim", markup=False)

    def line(self, text: str) -> None:
        """A line of the conversation, as it is."""
        self._console.print(text, style="green", markup=False)

    def check(self, claim: str, *, expected: object, found: object) -> None:
        """Prints the claim if what was found is what was expected.

        Raises:
            Untrue: it is not.
        """
        if expected != found:
            raise Untrue(claim, expected=expected, found=found)
        self.checked += 1
        self._console.print("   [green]ok[/green] ", end="")
        self._console.print(claim, markup=False)

    def done(self, text: str) -> None:
        """The last line of a story that was true to its end."""
        self._console.print()
        self._console.print(text, style="bold green", markup=False)

    def failed(self, text: str) -> None:
        """The last line of another one."""
        self._console.print()
        self._console.print(text, style="bold red", markup=False)

    def point_out(self, text: str) -> None:
        """Something to read afterwards."""
        self._console.print(f"   {text}", markup=False)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Shows that something is under way (on a terminal), then how long it took."""
        started_at = time.monotonic()
        with self._console.status(f"{text} ..."):
            yield
        self.say(f"{text}: {time.monotonic() - started_at:.1f} s")
