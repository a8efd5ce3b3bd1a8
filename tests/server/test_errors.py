"""Every error of the tree has a status, and the page that tells users of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from threadmill.drivers.postgres.translate import subclasses
from threadmill.errors import (
    Error,
    GraphLoadFailed,
    InvariantViolated,
    LimitExceeded,
    SetupError,
    StoreUnavailable,
    Unavailable,
)
from threadmill.server.errors import STATUS, answer, readable, status_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
_ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| `(?P<code>\w+)` \| (?P<status>\d+) \|", re.MULTILINE
)


def test_the_page_lists_every_error_with_code_and_status() -> None:
    written = [
        (row["name"], row["code"], int(row["status"]))
        for row in _ROW.finditer(PAGE.read_text("utf-8"))
    ]
    expected = [(c.__name__, c.code, status_of(c)) for c in subclasses(Error)]
    assert sorted(written) == sorted(expected)


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in subclasses(Error)]
    assert len(codes) == len(set(codes))


def test_the_table_holds_classes_of_the_tree_only() -> None:
    assert set(STATUS) <= set(subclasses(Error))


@pytest.mark.parametrize("cls", subclasses(Error), ids=lambda cls: cls.__name__)
def test_every_error_can_be_answered(cls: type[Error]) -> None:
    response = answer(cls("the message"))
    assert response.status_code == status_of(cls)
    shown = b"the message" in bytes(response.body)
    hidden = InvariantViolated | GraphLoadFailed | SetupError
    assert shown is not issubclass(cls, hidden)
    retry = issubclass(cls, LimitExceeded | Unavailable)
    assert ("retry-after" in response.headers) is retry


def test_where_a_store_is_stands_in_the_log() -> None:
    error = StoreUnavailable("Redis (10.0.0.1:6379) is away", shown="Redis is away")
    with capture_logs() as logs:
        assert bytes(answer(error).body) == b'{"detail":"Redis is away"}'
    assert [log["cause"] for log in logs] == [str(error)]


def test_what_operators_must_mend_stands_in_the_log() -> None:
    with capture_logs() as logs:
        assert b"10.0" not in bytes(answer(SetupError("10.0.0.1 refuses it")).body)
    assert [log["cause"] for log in logs] == ["10.0.0.1 refuses it"]


def test_parts_of_a_second_are_rounded_up() -> None:
    response = answer(Unavailable(retry_after_seconds=0.2))
    assert response.headers["retry-after"] == "1"


def test_problems_read_as_one_line() -> None:
    problems = [
        {"loc": ("body", "config", "tags"), "msg": "Input should be a list"},
        {"loc": ("path", "thread_id"), "msg": "Input should be a valid UUID"},
        {"loc": (), "msg": "Input should be an object"},
    ]
    assert readable(problems) == (
        "config.tags: Input should be a list; thread_id: Input should be a valid UUID;"
        " Input should be an object"
    )
