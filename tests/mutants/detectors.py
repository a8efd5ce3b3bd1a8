"""Those who must notice a mutant: the history checker, the simulator, a named test.

A detector is a command line; settings may stand before it::

    THREADMILL_FAULTS="commit.before=pause:0.3@10%" chaos --seconds 15 --seed 1
    simulation --seeds 300
    pytest tests/checkpoints/test_fence.py::test_a_writer_waits

It has noticed something only if it says so itself: an invariant, a schedule with a
violation, a failed test. A command that hangs, breaks or cannot begin has no verdict,
which is not the same: a mutant that nobody can run would be caught by anything.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

_SECONDS_MAX: Final = 150.0
_SHOWN_CHARACTERS: Final = 150
_FAILED_EXIT_CODE: Final = 1


class Answer(StrEnum):
    """What a detector says."""

    NOTICED = "noticed"
    PASSED = "passed"
    NO_VERDICT = "no verdict"


@dataclass(frozen=True, slots=True)
class Told:
    """How a detector's run went.

    Args:
        answer: see `Answer`.
        by: what has noticed it, or why there is no verdict.
        output: everything that it printed.
        seconds: how long it took.
    """

    answer: Answer
    by: str
    output: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Detector:
    """A command line, taken apart.

    Args:
        kind: chaos, simulation or pytest.
        arguments: of the kind.
        settings: environment variables.
    """

    kind: str
    arguments: Sequence[str]
    settings: Mapping[str, str]


def parse(line: str) -> Detector:
    """Takes a detector's line apart.

    Raises:
        ValueError: it is of no known kind, or a test that it names is not there.
    """
    words, settings = shlex.split(line), {}
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        settings[name] = value
    if not words or words[0] not in _SAID:
        msg = f"'{line}' is of none of the kinds {', '.join(_SAID)}"
        raise ValueError(msg)
    return Detector(words[0], words[1:], settings)


async def ask(line: str, tree: Path) -> Told:
    """Runs a detector on a tree.

    Everything that it has started ends with it; cancelled, at once.

    Args:
        line: see `parse`.
        tree: a copy of the source and of what tests it.
    """
    detector, began = parse(line), time.monotonic()
    # What a detector leaves behind, logs of what it has found above all, goes with the
    # tree. PostgreSQL runs as somebody else when we are root, and passes through.
    left = tree / "tmp"
    left.mkdir(exist_ok=True)
    left.chmod(0o711)
    process = await asyncio.create_subprocess_exec(
        *_command(detector),
        cwd=tree,
        env={
            **os.environ,
            **detector.settings,
            "PYTHONPATH": os.pathsep.join((str(tree / "src"), str(tree))),
            "TMPDIR": str(left),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    reading = asyncio.create_task(process.communicate())
    late = False
    try:
        async with asyncio.timeout(_SECONDS_MAX):
            await asyncio.shield(reading)
    except TimeoutError:
        late = True
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output = (await reading)[0].decode(errors="replace")
    seconds = time.monotonic() - began
    if late:
        why = f"not done after {_SECONDS_MAX:.0f} s"
        return Told(Answer.NO_VERDICT, why, output, seconds)
    answer, by = _judge(detector, process.returncode or 0, output)
    return Told(answer, by[:_SHOWN_CHARACTERS], output, seconds)


def _command(detector: Detector) -> list[str]:
    python = [sys.executable, "-m"]
    match detector.kind:
        case "chaos":
            return [*python, "chaos", *detector.arguments]
        case "simulation":
            return [*python, "tests.simulation", *detector.arguments]
        case _:
            quiet = ("-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider")
            return [*python, "pytest", *quiet, *detector.arguments]


def _judge(detector: Detector, code: int, output: str) -> tuple[Answer, str]:
    if code == 0:
        return Answer.PASSED, ""
    said = _SAID[detector.kind].search(output)
    hung = said is not None and "from pytest-timeout" in said[1]
    if code == _FAILED_EXIT_CODE and said is not None and not hung:
        return Answer.NOTICED, f"{detector.kind}: {' '.join(said[1].split())}"
    last = output.strip().splitlines()[-1:] or ["nothing"]
    return Answer.NO_VERDICT, f"exit code {code}: {last[0]}"


# How each kind says that it has noticed something.
_SAID: Final = {
    "chaos": re.compile(r"violations of .+\n(I\d+ .+)"),
    "simulation": re.compile(r"\n?(seed \d+[^\n]*(?:\n(?!\s*\d+  )[^\n]*)?)"),
    "pytest": re.compile(r"^FAILED (?:\S+::)?(.+)$", re.MULTILINE),
}
