"""`python -m tests.mutants`: who notices which mutant.

First every detector must pass on the tree as it is; then each mutant must be noticed by
one of its own. Exits with 0 if so.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.mutants.detectors import Answer, Told, ask
from tests.mutants.patches import Mutant, PatchError, copy_tree, paths, read

_OUTPUT_LINES_SHOWN = 40
_WIDTH = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What came of one mutant, or of the tree as it is.

    Args:
        name: the mutant's, or the detector that the tree as it is was shown to.
        good: noticed, or for the tree as it is: passed.
        by: who has noticed it, or what went wrong.
        seconds: of all its detectors.
        guarantee: which the mutant breaks.
    """

    name: str
    good: bool
    by: str
    seconds: float
    guarantee: str = ""


def main() -> int:
    """Parses the options and shows every mutant to its detectors.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("only", nargs="*", help="numbers or parts of names")
    parser.add_argument("--jobs", type=int, default=2, help="so many at the same time")
    parser.add_argument(
        "--no-baseline", action="store_true", help="leave out the tree as it is"
    )
    parser.add_argument(
        "--all", action="store_true", help="ask every detector, also after one noticed"
    )
    parser.add_argument("--list", action="store_true", help="list them and end")
    options = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False, width=_WIDTH)
    try:
        mutants = [m for m in map(read, paths()) if _is_meant(m, options.only)]
    except PatchError as error:
        console.print(str(error), markup=False)
        return 1
    if options.list or not mutants:
        for mutant in mutants:
            console.print(f"{mutant.name}: {mutant.breaks}", markup=False)
        return 0 if mutants else 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tm-mutants-") as folder:
        # PostgreSQL runs as somebody else when we are root.
        Path(folder).chmod(0o711)
        bench = Bench(Path(folder), options.jobs, console, every=options.all)
        judged = asyncio.run(bench.run(mutants, baseline=not options.no_baseline))
    _print(console, judged, time.monotonic() - began)
    return 0 if all(one.good for one in judged) else 1


def _is_meant(mutant: Mutant, only: Sequence[str]) -> bool:
    number = mutant.name.split("-")[0]
    return not only or any(
        word == number or (not word.isdigit() and word in mutant.name) for word in only
    )


class Bench:
    """Where mutants are made and shown to their detectors.

    Args:
        folder: empty; the trees are made here.
        jobs: how many detectors run at the same time.
        console: told about each as soon as it is known.
        every: go on with the other detectors when one has noticed.
    """

    def __init__(
        self, folder: Path, jobs: int, console: Console, *, every: bool
    ) -> None:
        self._folder = folder
        self._turns = asyncio.Semaphore(jobs)
        self._console = console
        self._every = every

    async def run(self, mutants: Sequence[Mutant], *, baseline: bool) -> list[Judged]:
        """Everything; the tree as it is first."""
        lines = dict.fromkeys(line for m in mutants for line in m.detectors)
        async with asyncio.TaskGroup() as group:
            tasks = []
            if baseline:
                tree = copy_tree(self._folder / "as-it-is", None)
                tasks += [
                    group.create_task(self._as_it_is(line, tree)) for line in lines
                ]
            tasks += [group.create_task(self._mutant(mutant)) for mutant in mutants]
        return [task.result() for task in tasks]

    async def _as_it_is(self, line: str, tree: Path) -> Judged:
        async with self._turns:
            told = await ask(line, tree)
        good = told.answer is Answer.PASSED
        if not good:
            self._show("as it is", line, told)
        return self._said(
            Judged(name=line, good=good, by=told.by, seconds=told.seconds)
        )

    async def _mutant(self, mutant: Mutant) -> Judged:
        async with self._turns:
            try:
                tree = copy_tree(self._folder / mutant.name, mutant)
            except PatchError as error:
                told = [Told(Answer.NO_VERDICT, str(error), "", 0.0)]
            else:
                told = await self._show_to_all(mutant, tree)
        noticed = [one.by for one in told if one.answer is Answer.NOTICED]
        missed = [one.by for one in told if one.answer is Answer.NO_VERDICT]
        return self._said(
            Judged(
                name=mutant.name,
                guarantee=mutant.guarantee,
                good=bool(noticed),
                by="\n".join(noticed or missed or ["nobody has noticed it"]),
                seconds=sum(one.seconds for one in told),
            )
        )

    async def _show_to_all(self, mutant: Mutant, tree: Path) -> list[Told]:
        """Asks one detector after the other, mostly until one has noticed."""
        told = []
        for line in mutant.detectors:
            one = await ask(line, tree)
            told.append(one)
            if one.answer is Answer.NO_VERDICT:
                self._show(mutant.name, line, one)
            elif self._every:
                self._console.print(
                    f"{mutant.name}: {one.answer} by {line}: {one.by}", markup=False
                )
            if one.answer is Answer.NOTICED and not self._every:
                break
        return told

    def _said(self, one: Judged) -> Judged:
        word = "ok  " if one.good else "FAIL"
        self._console.print(
            f"{word} {one.seconds:4.0f} s  {one.name}: {one.by or 'passed'}",
            markup=False,
        )
        return one

    def _show(self, name: str, line: str, told: Told) -> None:
        last = told.output.splitlines()[-_OUTPUT_LINES_SHOWN:]
        self._console.print(f"--- {name}: {line}", *last, sep="\n", markup=False)


def _print(console: Console, judged: Sequence[Judged], seconds_taken: float) -> None:
    table = Table(title="mutants", show_lines=False)
    for column in ("mutant", "guarantee", "noticed by"):
        table.add_column(column, overflow="fold")
    table.add_column("seconds", justify="right")
    base = [one for one in judged if not one.guarantee and one.good]
    rest = [one for one in judged if one not in base]
    if base:
        seconds = sum(one.seconds for one in base)
        by = f"nobody, rightly: {len(base)} detectors passed"
        table.add_row("(the tree as it is)", "", by, f"{seconds:.0f}")
    for one in rest:
        wrong = "SURVIVED" if one.guarantee else "FAILS ON THE TREE AS IT IS"
        shown = escape(one.by) if one.good else f"[red]{wrong}[/red] {escape(one.by)}"
        table.add_row(one.name, one.guarantee, shown, f"{one.seconds:.0f}")
    console.print(table)
    failed = sum(not one.good for one in judged)
    took = f"in {seconds_taken:.0f} s"
    console.print(f"{len(judged) - failed} as they should be, {failed} not, {took}")


if __name__ == "__main__":
    sys.exit(main())
