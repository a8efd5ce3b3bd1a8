"""The contracts of the layers are not only there: they find what they forbid."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def broken_contracts(root: Path) -> str:
    """Return what the checker says about the tree in `root`."""
    checker = (
        "from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    answer = subprocess.run(
        [sys.executable, "-c", checker, "--no-cache"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    return "\n".join(line for line in answer.stdout.splitlines() if "BROKEN" in line)


@pytest.mark.slow
def test_a_forbidden_import_breaks_its_contract(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "src/threadmill"
    (package / "domain/upwards.py").write_text("import threadmill.engine.upwards\n")
    (package / "engine/upwards.py").write_text("import fastapi\nimport psycopg\n")
    broken = broken_contracts(tmp_path)
    assert "imports go down only BROKEN" in broken
    assert "only the server and the command line know HTTP BROKEN" in broken
    assert "the engine knows ports, not adapters BROKEN" in broken
