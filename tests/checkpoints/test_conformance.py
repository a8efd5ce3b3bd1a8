"""LangGraph's own suite for savers, with all its capabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from threadmill.checkpoints.saver import PostgresSaver


@pytest.mark.slow
@pytest.mark.langgraph
async def test_all_capabilities_pass(database_uri: str) -> None:
    @checkpointer_test(name="threadmill.PostgresSaver")
    async def saver() -> AsyncIterator[PostgresSaver]:
        async with PostgresSaver.from_conn_string(database_uri) as opened:
            yield opened

    report = await validate(saver)
    assert {name: r.failures for name, r in report.results.items() if r.failures} == {}
    assert {name for name, r in report.results.items() if r.passed} == {
        capability.value for capability in Capability
    }
