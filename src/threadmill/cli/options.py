"""The options that several commands have, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path, typer.Option("--config", help="langgraph.json, or the folder that holds it.")
]
Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
]
Slots = Annotated[
    int | None,
    typer.Option(
        "--slots",
        min=1,
        help="Activations run at once, in place of THREADMILL_SLOTS.",
        show_default=False,
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tenant = Annotated[str, typer.Option("--tenant", help="Whose data it is about.")]

DEFAULT_CONFIG = Path("langgraph.json")
