"""ARCHITECTURE.md shows the layers that the import linter proves."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "ARCHITECTURE.md"
PACKAGE = re.compile(r"`([a-z]+)(?:/|\.py)`")
LINES_MAX = 300


def test_the_layers_are_drawn_as_they_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contract = next(
        c for c in contracts["tool"]["importlinter"]["contracts"] if "layers" in c
    )
    checked = [set(re.findall(r"[a-z_]+", layer)) for layer in contract["layers"]]
    assert drawn() == checked


def test_every_package_is_drawn() -> None:
    source = ROOT / "src" / "threadmill"
    packages = {path.parent.name for path in source.glob("*/__init__.py")}
    modules = {path.stem for path in source.glob("*.py")} - {"__init__", "__main__"}
    assert set().union(*drawn()) == (packages | modules) - {"testing"}


def test_it_can_be_read_at_one_go() -> None:
    assert len(PAGE.read_text("utf-8").splitlines()) <= LINES_MAX


def drawn() -> list[set[str]]:
    """The first column of the table of layers, from the top down."""
    table = PAGE.read_text("utf-8").partition("| package | holds |")[2]
    rows = table.partition("\n\n")[0].splitlines()[2:]
    return [set(PACKAGE.findall(row.split("|")[1])) for row in rows]
