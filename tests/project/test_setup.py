"""What `make setup` stands on, on machines that lack something."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / ".tools" / "uv-cache"


def cache(**environ: str) -> Path:
    """Where uv would keep its downloads, in an environment of only these variables."""
    answer = subprocess.run(
        [ROOT / "scripts" / "find-uv-cache"],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stderr == ""
    return Path(answer.stdout.strip())


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HOME": ""},
        # Not even root can make a folder there.
        {"HOME": "/dev/null"},
        {"HOME": "/proc"},
        {"HOME": "/tmp", "XDG_CACHE_HOME": "/dev/null/cache"},  # noqa: S108 - no file of ours
    ],
)
def test_without_a_home_that_can_be_written_the_project_holds_the_cache(
    environ: dict[str, str],
) -> None:
    assert cache(**environ) == OWN


def test_a_home_that_can_be_written_is_shared_with_other_projects(
    tmp_path: Path,
) -> None:
    home, other = str(tmp_path), str(tmp_path / "other")
    assert cache(HOME=home) == tmp_path / ".cache" / "uv"
    assert cache(HOME=home, XDG_CACHE_HOME=other) == tmp_path / "other" / "uv"
    assert cache(HOME=home, UV_CACHE_DIR=other) == tmp_path / "other"


@pytest.mark.parametrize("script", ["setup", "lock"])
def test_whoever_runs_uv_says_where_its_cache_is(script: str) -> None:
    lines = (ROOT / "scripts" / script).read_text().splitlines()
    uses = next(i for i, line in enumerate(lines) if '"$uv"' in line)
    assert "export UV_CACHE_DIR" in lines[:uses]
