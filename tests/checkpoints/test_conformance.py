"""LangGraph's own suite for savers, with all its capabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from tests.fixtures.savers import NewSaver


@pytest.mark.slow
@pytest.mark.langgraph
async def test_all_capabilities_pass(new_saver: NewSaver) -> None:
    @checkpointer_test(name=type(new_saver()).__name__)
    async def saver() -> AsyncIterator[BaseCheckpointSaver]:
        async with new_saver() as opened:
            yield opened

    report = await validate(saver)
    assert {name: r.failures for name, r in report.results.items() if r.failures} == {}
    assert {name for name, r in report.results.items() if r.passed} == {
        capability.value for capability in Capability
    }
