"""Mutants: the shipped source with one guarantee taken away each, as patch files.

A patch changes files below `src` only, is applied to a copy, and says in the lines
before its first hunk what it breaks and who must notice::

    Guarantee: I8
    Breaks: a run that ends hands its thread on to nobody
    Detector: chaos --seconds 8 --seed 1 --only "rolling restart"
    Detector: pytest tests/stores/test_runs.py::test_later_runs_wait

`Guarantee` is an invariant of the history checker (I1 to I10), or a promise of
docs/explanation/guarantees.md in the words of its headline. Detectors are asked in
their order until one notices; see `detectors`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = Path(__file__).parent
# What detectors need of the tree, besides the source.
_COPIED: Final = ("src", "tests", "chaos", "pyproject.toml")
_HEADER: Final = re.compile(r"^(Guarantee|Breaks|Detector): (.+)$", re.MULTILINE)
_PATCHED: Final = re.compile(r"^(?:---|\+\+\+) [ab]/(\S+)", re.MULTILINE)
_APPLY_SECONDS: Final = 60.0


class PatchError(Exception):
    """A patch that cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One patch.

    Args:
        path: the file.
        guarantee: which one it breaks.
        breaks: how, in words.
        detectors: commands, the cheapest or the most telling one first.
        files: what it changes.
    """

    path: Path
    guarantee: str
    breaks: str
    detectors: Sequence[str]
    files: Sequence[str]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def read(path: Path) -> Mutant:
    """The mutant of a patch file.

    Raises:
        PatchError: its header is not complete, or it changes something else than the
            source.
    """
    header, hunks, rest = path.read_text("utf-8").partition("--- a/")
    said: dict[str, list[str]] = {"Guarantee": [], "Breaks": [], "Detector": []}
    for name, text in _HEADER.findall(header):
        said[name].append(text.strip())
    files = sorted(set(_PATCHED.findall(hunks + rest)))
    if len(said["Guarantee"]) != 1 or len(said["Breaks"]) != 1 or not said["Detector"]:
        msg = f"{path.name}: it needs one Guarantee, one Breaks, and a Detector"
        raise PatchError(msg)
    if not files or any(not file.startswith("src/") for file in files):
        msg = (
            f"{path.name}: it changes {files or 'nothing'}, and should change src only"
        )
        raise PatchError(msg)
    return Mutant(
        path, said["Guarantee"][0], said["Breaks"][0], said["Detector"], files
    )


def paths() -> list[Path]:
    """All patch files, in the order of their numbers."""
    return sorted(FOLDER.glob("*.patch"))


def copy_tree(folder: Path, mutant: Mutant | None) -> Path:
    """Makes a copy of the tree, with the mutant's patch if there is one.

    Args:
        folder: where; must not exist.
        mutant: None for the tree as it is.

    Raises:
        PatchError: the patch does not apply.
    """
    folder.mkdir()
    folder.chmod(0o711)
    # Compiled files come along: what is not patched need not be compiled again.
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
        else:
            shutil.copy2(ROOT / name, folder / name)
    if mutant is not None:
        apply(mutant.path, folder)
    return folder


def apply(path: Path, folder: Path, *, check: bool = False) -> None:
    """Applies a patch to the tree in `folder`.

    Args:
        path: the patch.
        folder: what it is applied to.
        check: only say whether it would apply.

    Raises:
        PatchError: it does not; the message has git's words.
    """
    done = subprocess.run(
        ["git", "apply", *(["--check"] if check else []), os.fspath(path)],
        cwd=folder,
        # Within somebody's repository git would leave out what that does not hold.
        env={**os.environ, "GIT_CEILING_DIRECTORIES": os.fspath(folder.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_APPLY_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        msg = (
            f"{path.name} does not apply any more: {done.stdout.strip()}; "
            "make the same change by hand and store its `git diff` as the patch"
        )
        raise PatchError(msg)
