"""The page on the HTTP interface lists exactly the routes and modes there are."""

from __future__ import annotations

import re
from pathlib import Path

from threadmill.engine.submit import STREAM_MODES
from threadmill.server import (
    assistants,
    history,
    meta,
    operations,
    runs,
    stateless,
    states,
    threads,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"
_ROUTE = re.compile(
    r"^\| (GET|HEAD|POST|PUT|PATCH|DELETE) \| `([^`]+)` \|", re.MULTILINE
)
_MODE = re.compile(r"^\| `([a-z-]+)` \| `", re.MULTILINE)


def test_every_route_is_on_the_page() -> None:
    modules = (assistants, history, meta, operations, runs, stateless, states, threads)
    served = {
        (method, getattr(route, "path", ""))
        for module in modules
        for route in module.router.routes
        for method in getattr(route, "methods", ())
    }
    assert set(_ROUTE.findall(PAGE.read_text("utf-8"))) == served


def test_every_stream_mode_is_on_the_page() -> None:
    assert set(_MODE.findall(PAGE.read_text("utf-8"))) == set(STREAM_MODES)
