"""The glossary has one word per idea, and the words that it rules out stay out."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"
# Ruled out whatever they are meant to say; the others are ruled out for one idea only
# ("lock", "step", "node"), which takes a reader to judge.
NEVER = ("job", "jobs", "workflow", "workspace", "reaper", "janitor", "grab")


def test_every_word_is_explained_once() -> None:
    rows = [line.split("|")[1:4] for line in _table(GLOSSARY.read_text("utf-8"))]
    words = [word.strip() for row in rows for word in row[0].split(",")]
    assert [word for word, times in Counter(words).items() if times > 1] == []
    assert all(meaning.strip() for _, meaning, _ in rows)


def test_words_that_are_ruled_out_stand_nowhere_in_the_code() -> None:
    ruled_out = re.compile(rf"\b({'|'.join(NEVER)})\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "src").rglob("*"))
        if path.suffix in {".py", ".sql"}
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if ruled_out.search(line)
    ]
    assert found == []


def test_the_words_that_are_ruled_out_are_those_of_the_glossary() -> None:
    text = GLOSSARY.read_text("utf-8")
    assert [word for word in NEVER if word.removesuffix("s") not in text] == []


def _table(text: str) -> list[str]:
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return rows[2:]
