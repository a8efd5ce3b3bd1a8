"""The reference pages list every setting and every key, and nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path

from threadmill.config import KEYS
from threadmill.settings import describe

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
NAME = re.compile(r"`([^`]+)`")


def rows(page: str, heading: str) -> Iterator[list[str]]:
    """The cells of every row of the tables whose first column has this heading."""
    inside = False
    for line in (REFERENCE / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == heading:
            inside = True
        elif inside and set(cells[0]) != {"-"}:
            yield cells


def test_every_setting_is_documented_with_its_names_type_default_and_bounds() -> None:
    documented = {
        tuple(NAME.findall(names)): (type_, default.strip("`"), bounds)
        for names, type_, default, bounds, _ in rows("settings.md", "variable")
    }
    existing = {d.names: (d.type, d.default, d.bounds) for d in describe()}
    assert documented == existing


def test_every_setting_is_documented_once_and_with_its_meaning() -> None:
    documented = list(rows("settings.md", "variable"))
    assert len(documented) == len(list(describe()))
    meanings = {d.names[0]: d.description for d in describe()}
    for names, _, _, _, meaning in documented:
        assert meaning == meanings[NAME.findall(names)[0]]


def test_every_key_of_langgraph_json_is_documented_with_its_use() -> None:
    documented = {
        NAME.findall(key)[0]: use for key, use, _ in rows("langgraph-json.md", "key")
    }
    assert documented == {key: str(known.use) for key, known in KEYS.items()}


def test_the_pages_name_no_variable_that_does_not_exist() -> None:
    known = {name for d in describe() for name in d.names}
    reserved = {"THREADMILL_FAULTS", "THREADMILL_TEST_", "THREADMILL_"}
    for page in ("settings.md", "langgraph-json.md"):
        text = (REFERENCE / page).read_text(encoding="utf-8")
        named = set(re.findall(r"THREADMILL_[A-Z_]*", text))
        assert named <= known | reserved, page
