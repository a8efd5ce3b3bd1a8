"""The shape of the source tree: rules that no other tool checks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src/threadmill"
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names that a module imports, `a.b.c` for `from a.b import c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_why_it_exists(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_adapter_reaches_into_langgraph(path: Path) -> None:
    """LangGraph's private modules may change with any release; one place follows."""
    if path.is_relative_to(PACKAGE / "engine/activation"):
        return
    for name in imported(ast.parse(path.read_text())):
        if name.startswith("langgraph."):
            private = [part for part in name.split(".") if part.startswith("_")]
            assert not private, f"{name} is internal to langgraph"


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "common", "helper", "helpers", "manager", "misc"}
    assert not [path for path in MODULES if path.stem in drawers]


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = "import sys, threadmill; print('langgraph' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


def test_every_ignored_lint_rule_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    ignored = re.findall(r'^    "[A-Z]+[0-9]+",.*$', text, re.MULTILINE)
    assert ignored
    assert not [line for line in ignored if "#" not in line]


def test_no_file_names_the_folder_it_was_written_in() -> None:
    found = []
    folders = ("src", "tests", "chaos", "scripts", "docs", "examples", "bench", ".ci")
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix not in {".pyc", ".png"} and path.is_file():
                found += [path] if str(ROOT) in path.read_text(errors="replace") else []
    assert not found


def test_every_task_of_the_makefile_is_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    tasks = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    explained = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert tasks == explained
    wanted = {"setup", "demo", "dev", "check", "test", "bench", "docs"}
    assert wanted <= tasks


def test_events_of_the_log_are_named_alike() -> None:
    """`what.happened`; a request's own line is the exception."""
    levels = {"debug", "info", "warning", "error", "exception", "critical"}
    named = {
        str(first.value)
        for path in MODULES
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in levels
        and "log" in ast.unparse(call.func.value).lower()
        and isinstance(first := next(iter(call.args), None), ast.Constant)
    }
    assert len(named) > 30
    odd = {name for name in named if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)}
    assert odd == {"request"}
