"""Every link of the documents leads somewhere, and every test that they name exists."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# Contract suites are shipped; what runs them is in `tests/contract`.
TEST = re.compile(r"`((?:tests|src/threadmill/testing/contracts)/[\w/.]+\.py)::(\w+)`")
FILE = re.compile(r"`((?:src/threadmill|tests|docs|examples|scripts)/[\w/.-]+)`")

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [link for link in links(page) if not leads_somewhere(page, link)]
    assert broken == []


@each_page
def test_every_file_and_test_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    assert missing == []
    unknown = [
        f"{file}::{test}"
        for file, test in TEST.findall(text)
        if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert unknown == []


@each_page
def test_a_page_has_one_title_and_begins_with_it(page: Path) -> None:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    assert [line[:2] for line in text.splitlines()].count("# ") == 1
    assert text.startswith("# ")


def test_every_page_of_docs_is_reached_from_its_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached, queue = {index}, [index]
    while queue:
        page = queue.pop()
        for link in links(page):
            target = (page.parent / unquote(link.partition("#")[0])).resolve()
            if target.suffix == ".md" and target.exists() and target not in reached:
                reached.add(target)
                queue.append(target)
    assert [p for p in PAGES if ROOT / "docs" in p.parents and p not in reached] == []


def links(page: Path) -> Iterator[str]:
    """The page's links within the project."""
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", link):
            yield link


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = unquote(link).partition("#")
    target = (page.parent / path) if path else page
    if not target.exists() or not target.resolve().is_relative_to(ROOT):
        return False
    return not anchor or anchor in anchors(target)


def anchors(page: Path) -> set[str]:
    """What can stand behind `#`: the page's headings as they are in an address."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in HEADING.findall(text)}


def slug(heading: str) -> str:
    kept = (
        c
        for c in heading.lower()
        if c in " -_" or unicodedata.category(c)[0] in {"L", "N"}
    )
    return "".join(kept).replace(" ", "-")
