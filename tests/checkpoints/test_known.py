"""What a process remembers of stored checkpoints is bounded, and only a guess."""

from __future__ import annotations

from threadmill.checkpoints.known import Known, Memory
from threadmill.checkpoints.packing import Manifest


def _known(ns: str, checkpoint_id: str = "c1", names: int = 1) -> Known:
    manifest = Manifest({}, frozenset(bytes([n]) for n in range(names)))
    return Known(ns, checkpoint_id, 7, manifest)


def test_the_latest_of_a_namespace_is_remembered() -> None:
    memory = Memory()
    memory.remember("mine", "t", _known("sub", "c1"))
    memory.remember("mine", "t", _known("sub", "c2"))
    found = memory.find("mine", "t", "sub")
    assert found is not None
    assert found.checkpoint_id == "c2"


def test_a_new_namespace_begins_with_what_is_known_of_the_root() -> None:
    memory = Memory()
    memory.remember("mine", "t", _known("sub"))
    assert memory.find("mine", "t", "other") is None
    memory.remember("mine", "t", _known(""))
    found = memory.find("mine", "t", "other")
    assert found is not None
    assert found.ns == ""


def test_threads_and_tenants_are_apart() -> None:
    memory = Memory()
    memory.remember("mine", "t", _known(""))
    assert memory.find("theirs", "t", "") is None
    assert memory.find("mine", "u", "") is None


def test_the_least_used_is_forgotten_first() -> None:
    memory = Memory(entries_max=2)
    memory.remember("mine", "a", _known(""))
    memory.remember("mine", "b", _known(""))
    memory.find("mine", "a", "")
    memory.remember("mine", "c", _known(""))
    found = [bool(memory.find("mine", thread, "")) for thread in "abc"]
    assert found == [True, False, True]


def test_names_are_bounded_however_few_threads_have_them() -> None:
    memory = Memory(names_max=10)
    memory.remember("mine", "a", _known("", names=6))
    memory.remember("mine", "a", _known("", names=8))
    assert memory.find("mine", "a", "")
    memory.remember("mine", "b", _known("", names=3))
    assert memory.find("mine", "a", "") is None
    assert memory.find("mine", "b", "")
    memory.remember("mine", "c", _known("", names=11))
    assert [memory.find("mine", thread, "") for thread in "abc"] == [None] * 3
