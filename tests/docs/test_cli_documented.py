"""The reference page lists every command and option, and nothing else."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from threadmill.cli.program import COMMANDS, program

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
NAME = re.compile(r"`([^`]+)`")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(section: str, heading: str) -> Iterator[list[str]]:
    """The rows of the tables whose first column has this heading."""
    inside = False
    for line in section.splitlines():
        if not line.startswith("|"):
            inside = False
        elif cells(line)[0] == heading:
            inside = True
        elif inside and set(cells(line)[0]) != {"-"}:
            yield cells(line)


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def commands() -> dict[str, Any]:
    """Every command by the words that call it."""
    found: dict[str, Any] = {}
    top: dict[str, Any] = typer.main.get_command(program()).commands  # type: ignore[attr-defined]
    for name, command in top.items():
        inner = getattr(command, "commands", None)
        found |= (
            {f"{name} {n}": c for n, c in inner.items()} if inner else {name: command}
        )
    return found


def default_of(option: Any) -> str:
    if option.default is None or option.default == "":
        return "none"
    if isinstance(option.default, bool):
        return str(option.default).lower()
    return str(option.default)


def test_every_command_is_documented_with_the_first_line_of_its_help() -> None:
    documented = {
        NAME.findall(n)[0]: what for n, what in rows(sections()[""], "command")
    }
    helps = {
        name: (inspect.getdoc(command) or "").split("\n")[0]
        for name, command in COMMANDS.items()
    }
    assert documented == helps
    assert set(helps) == set(commands())


def test_every_option_is_documented_with_its_default_and_help() -> None:
    for name, command in commands().items():
        documented = {
            NAME.findall(option)[0]: (default.strip("`"), meaning)
            for option, default, meaning in rows(sections()[name], "option")
        }
        existing = {
            option.opts[0]: (default_of(option), option.help)
            for option in command.params
            if option.name != "help" and option.param_type_name == "option"
        }
        if name == "dev":
            # Its default depends on where langgraph.json is.
            place, text = documented["--data-dir"]
            assert place == ".threadmill/pg` beside langgraph.json"
            assert text in existing["--data-dir"][1]
            documented["--data-dir"] = existing["--data-dir"]
        assert documented == existing, name


def test_every_argument_is_documented_with_its_help() -> None:
    for name, command in commands().items():
        documented = {
            NAME.findall(argument)[0]: meaning
            for argument, meaning in rows(sections()[name], "argument")
        }
        existing = {
            argument.metavar: argument.help
            for argument in command.params
            if argument.param_type_name == "argument"
        }
        assert documented == existing, name


def test_every_check_of_the_doctor_is_documented() -> None:
    documented = {
        NAME.findall(row[0])[0] for row in rows(sections()["doctor"], "check")
    }
    source = Path(inspect.getfile(program)).parents[1]
    code = "".join(
        (source / file).read_text(encoding="utf-8")
        for file in ("engine/doctor.py", "cli/examination.py")
    )
    for check in documented - {"graph ID"}:
        assert f'"{check}"' in code, check
