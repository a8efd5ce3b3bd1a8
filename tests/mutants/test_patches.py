"""Mutants do not rot: each applies to the tree as it is, and names who must notice it.

Whether they are noticed is told by `make mutants`, which takes its time.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from chaos.faults import FAULTS
from tests.mutants.detectors import parse
from tests.mutants.patches import ROOT, PatchError, apply, copy_tree, paths, read
from threadmill.testing.history.verdict import Invariant

PAGE = ROOT / "docs" / "explanation" / "guarantees.md"
_WANTED = 12
_PATHS = paths()


def _promises() -> set[str]:
    found = re.findall(r"^\*\*(.+)\.\*\*$", PAGE.read_text("utf-8"), re.MULTILINE)
    return {*found, *Invariant}


def test_there_are_enough_of_different_guarantees() -> None:
    mutants = [read(path) for path in _PATHS]
    assert len(mutants) >= _WANTED
    assert len({mutant.guarantee for mutant in mutants}) >= _WANTED
    numbers = [mutant.name.split("-")[0] for mutant in mutants]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("path", _PATHS, ids=lambda path: path.stem)
def test_a_patch_applies(path: Path) -> None:
    """If not, the message names it: somebody has changed the lines that it changes."""
    apply(path, ROOT, check=True)


@pytest.mark.parametrize("path", _PATHS, ids=lambda path: path.stem)
def test_a_patch_names_a_guarantee_and_who_notices(path: Path) -> None:
    mutant = read(path)
    assert mutant.guarantee in _promises()
    for line in mutant.detectors:
        detector = parse(line)
        if detector.kind == "pytest":
            for argument in detector.arguments:
                file, _, name = argument.partition("::")
                test = name.partition("[")[0]
                source = (ROOT / file).read_text("utf-8")
                assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE)
        if detector.kind == "chaos":
            words = list(detector.arguments)
            kinds = {words[i + 1] for i, word in enumerate(words) if word == "--only"}
            assert kinds
            assert kinds <= set(FAULTS)
            assert {"--seconds", "--seed", "--settle-seconds"} <= set(words)


def test_a_patch_that_does_not_apply_is_named(tmp_path: Path) -> None:
    mutant = read(_PATHS[0])
    rotten = tmp_path / "99-rotten.patch"
    lines = mutant.path.read_text("utf-8").splitlines(keepends=True)
    rotten.write_text("".join(f"-not {x[1:]}" if _goes(x) else x for x in lines))
    with pytest.raises(PatchError, match=r"99-rotten\.patch does not apply"):
        apply(rotten, ROOT, check=True)


def _goes(line: str) -> bool:
    return line.startswith("-") and not line.startswith("---")


def test_a_patch_of_something_else_than_the_source_is_refused(tmp_path: Path) -> None:
    """A mutant must not change those who are to notice it."""
    text = _PATHS[0].read_text("utf-8").replace("/src/", "/tests/")
    path = tmp_path / "99-tests.patch"
    path.write_text(text)
    with pytest.raises(PatchError, match="should change src only"):
        read(path)


def test_a_mutant_is_made_of_a_copy(tmp_path: Path) -> None:
    mutant = read(_PATHS[0])
    before = [(ROOT / file).read_bytes() for file in mutant.files]
    tree = copy_tree(tmp_path / "tree", mutant)
    assert [(ROOT / file).read_bytes() for file in mutant.files] == before
    assert [(tree / file).read_bytes() for file in mutant.files] != before
    shutil.rmtree(tree)
