"""`threadmill doctor`: looks at everything that must be right, one line each."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from threadmill.cli.console import Colour, can_show, paint, say
from threadmill.cli.options import DEFAULT_CONFIG, Config
from threadmill.logs import configure_logs, redact

if TYPE_CHECKING:
    from threadmill.engine.doctor import Finding

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

_SIGNS: Final[dict[str, tuple[str, str, Colour]]] = {
    "ok": ("✓", "ok  ", "green"),
    "warning": ("!", "warn", "yellow"),
    "failed": ("✗", "FAIL", "red"),
    "skipped": ("-", "skip", "bright_black"),
}
_WIDTH: Final = 20


def doctor(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Check the project, the settings and the database; say how to mend what is wrong.

    Changes nothing. Imports the graphs. Exits with 1 if anything is wrong; a warning
    is not.
    """
    from threadmill.cli.examination import Examination

    # What the checks find they report themselves.
    configure_logs(level="CRITICAL")
    found = []
    for finding in Examination(config):
        found.append(finding)
        if not as_json:
            _print(finding)
    failed = any(finding.verdict == "failed" for finding in found)
    if as_json:
        checks = [asdict(finding) for finding in found]
        say(redact(json.dumps({"ok": not failed, "checks": checks}, indent=2)))
    raise typer.Exit(int(failed))


def _print(finding: Finding) -> None:
    beautiful = can_show("✓✗→")
    good, plain, colour = _SIGNS[finding.verdict]
    mark = paint(good if beautiful else plain, colour)
    say(redact(f"{mark} {finding.check:<{_WIDTH}} {finding.detail}"))
    if finding.remedy is not None:
        arrow = "→" if beautiful else "->"
        say(redact(f"  {'':<{_WIDTH}} {arrow} {finding.remedy}"))
