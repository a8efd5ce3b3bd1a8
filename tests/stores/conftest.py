"""Fixtures of the stores' tests."""

from __future__ import annotations

import pytest

from tests.stores.memory_run_store import MemoryRunStore
from tests.stores.run_store import RunStore


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is marked `contract` runs on every store."""
    if metafunc.definition.get_closest_marker("contract") is not None:
        metafunc.parametrize("store", ["postgres", "memory"], indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> RunStore:
    """Runs, dispatcher and threads over an empty database, or in memory."""
    if getattr(request, "param", "postgres") == "memory":
        return MemoryRunStore()
    return RunStore(request.getfixturevalue("database"))
