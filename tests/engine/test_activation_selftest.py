"""The start-up self-test passes, and refuses a LangGraph that behaves otherwise."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel import _loop, _retry, main
from langgraph.runtime import RunControl

from threadmill.engine.activation.selftest import self_test
from threadmill.errors import SetupError

pytestmark = pytest.mark.langgraph


async def test_the_installed_langgraph_passes_time_and_again() -> None:
    await self_test()
    await self_test()


def _unheard_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "CONFIG_KEY_RUNNER_SUBMIT", "__renamed")


def _unheard_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunControl, "request_drain", lambda *_: None)


def _unheard_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loop, "CONFIG_KEY_STREAM", "__renamed")


def _late_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are told only after they are saved."""
    save, tell = _loop.PregelLoop.put_writes, _loop.PregelLoop.output_writes
    silent = {"on": False}

    def output_writes(self: Any, *args: Any, **kwargs: Any) -> None:
        if not silent["on"]:
            tell(self, *args, **kwargs)

    def put_writes(self: Any, task_id: str, writes: Any, **kwargs: Any) -> None:
        silent["on"] = True
        save(self, task_id, writes, **kwargs)
        silent["on"] = False

    monkeypatch.setattr(_loop.PregelLoop, "output_writes", output_writes)
    monkeypatch.setattr(_loop.PregelLoop, "put_writes", put_writes)


def _renamed_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subgraphs are told to resume by another key."""
    for module in (_loop, _retry):
        monkeypatch.setattr(module, "CONFIG_KEY_RESUMING", "__renamed")


def _new_task_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entering again sees other checkpoints than were put."""

    async def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(InMemorySaver, "aget_tuple", nothing)


def _refused_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "threadmill.engine.activation.steps._StepsLeft.__lt__",
        lambda self, other: int(self) < other,
    )


@pytest.mark.parametrize(
    "broken",
    [
        _unheard_hook,
        _unheard_drain,
        _unheard_tap,
        _late_tap,
        _new_task_ids,
        _renamed_flag,
        _refused_limit,
    ],
)
async def test_a_seam_that_behaves_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    broken(monkeypatch)
    with pytest.raises(SetupError) as refused:
        await self_test()
    assert metadata.version("langgraph") in str(refused.value)
    assert "langgraph<1.3" in str(refused.value) or "supports" in str(refused.value)
