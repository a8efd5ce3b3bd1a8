"""Fixtures of the stores' tests."""

from __future__ import annotations

import pytest

from tests.stores.run_store import RunStore
from threadmill.drivers.postgres.database import Database


@pytest.fixture
def store(database: Database) -> RunStore:
    """Runs, dispatcher and threads over an empty database."""
    return RunStore(database)
