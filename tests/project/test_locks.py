"""The lock files install the same everywhere, and fit what pyproject.toml promises."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))

# What decides where packages come from: the machine does, never the repository.
CONFIGURATION = [
    *LOCKS,
    *ROOT.glob("requirements*.txt"),
    *(ROOT / "scripts").iterdir(),
    *(ROOT / name for name in ("pyproject.toml", "Makefile", ".ci/run")),
    ROOT / ".pre-commit-config.yaml",
]


def project() -> dict[str, dict[str, list[str]]]:
    parsed: dict[str, dict[str, list[str]]] = tomllib.loads(
        (ROOT / "pyproject.toml").read_text()
    )
    return parsed


def locked(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def required(lock: Path) -> Iterator[Requirement]:
    """Yield what `lock` must satisfy."""
    texts = list(project()["project"]["dependencies"])
    if lock.name != "requirements.lock":
        texts += project()["dependency-groups"]["dev"]
    yield from (Requirement(text) for text in texts)


PROJECT_LOCKS = [lock for lock in LOCKS if lock.name != "requirements-uv.lock"]


@pytest.mark.parametrize("path", CONFIGURATION, ids=lambda path: path.name)
def test_no_configuration_names_a_package_index(path: Path) -> None:
    if path.is_file():
        # A database's address says nothing about packages.
        text = path.read_text().replace("postgresql://", "")
        assert "://" not in text
        assert not re.search(
            r"^\s*(--|\w*_)?(extra-|default-)?(index|index-url|find-links)\b",
            text,
            re.MULTILINE,
        )


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_package_has_hashes(lock: Path) -> None:
    entries = re.split(r"^(?=[a-z0-9.-]+==)", lock.read_text(), flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


@pytest.mark.parametrize("lock", PROJECT_LOCKS, ids=lambda lock: lock.name)
def test_a_lock_satisfies_pyproject(lock: Path) -> None:
    """`make lock` was run after the last change of the dependencies."""
    versions = locked(lock)
    for requirement in required(lock):
        assert requirement.name in versions, f"run make lock: {requirement}"
        version = versions[requirement.name]
        assert requirement.specifier.contains(version), f"run make lock: {requirement}"


def test_the_development_lock_runs_the_products_versions() -> None:
    product, development = (
        locked(ROOT / name) for name in ("requirements.lock", "requirements-dev.lock")
    )
    assert product.items() <= development.items()


def test_the_oldest_lock_holds_the_lower_bound_of_langgraph() -> None:
    (bound,) = (
        specifier.version
        for requirement in required(ROOT / "requirements.lock")
        if requirement.name == "langgraph"
        for specifier in requirement.specifier
        if specifier.operator == ">="
    )
    assert locked(ROOT / "requirements-oldest.lock")["langgraph"] == bound
