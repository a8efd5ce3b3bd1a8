"""Logs: one format for all, no passwords, each traceback once."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from threadmill.logs import configure_logs, has_colour, redact


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def raised(text: str) -> ValueError:
    """An error with a traceback."""
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:p@ss:w@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se/cr@et@host/db", "postgresql://me:***@host/db"),
        (
            '{"uri": "postgresql://me:se/cret@h/d"}',
            '{"uri": "postgresql://me:***@h/d"}',
        ),
        ("postgresql://me:se'cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://:secret@host", "postgresql://:***@host"),
        (
            "redis://u:secret@h and amqp://u:secret@h",
            "redis://u:***@h and amqp://u:***@h",
        ),
        (
            "postgresql:///db?user=me&password=secret",
            "postgresql:///db?user=me&password=***",
        ),
        ("nats://secret@a:4222,b:4222", "nats://***@a:4222,b:4222"),
        ("tls://secret@host", "tls://***@host"),
        ("nats://secret@a,nats://secret@b", "nats://***@a,nats://***@b"),
        ("nats://secret@a:4222,secret@b:4222", "nats://***@b:4222"),
        ("nats://me:secret@host", "nats://me:***@host"),
        ("host=h password=secret user=me", "host=h password=*** user=me"),
        ("host=h password='my secret' user=me", "host=h password='***' user=me"),
        ("PGPASSWORD=secret", "PGPASSWORD=***"),
        ('{"password": "my secret", "a": 1}', '{"password": "***", "a": 1}'),
        (r'"{\"password\": \"my secret\"}"', r'"{\"password\": \"***\"}"'),
        ("{'password': 'secret'}", "{'password': '***'}"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@host:5432/db",
        "nats://127.0.0.1:4222,127.0.0.2:4222",
        "http://127.0.0.1:2024/docs",
        "write to me@example.com: it is 12:30",
        "password authentication failed for user me",
    ],
)
def test_what_holds_no_password_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_json_lines_say_when_how_bad_who_and_what_first(stream: io.StringIO) -> None:
    configure_logs(stream=stream)
    structlog.get_logger("threadmill.somewhere").info("server.ready", url="http://x")
    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "logger", "event", "url"]
    assert line["event"] == "server.ready"


def test_other_libraries_are_part_of_the_same_log(stream: io.StringIO) -> None:
    configure_logs(stream=stream)
    logging.getLogger("agent").warning("asked %s", "twice", extra={"node": "a"})
    (line,) = lines(stream)
    assert (line["logger"], line["event"]) == ("agent", "asked twice")
    assert (line["level"], line["node"]) == ("warning", "a")


def test_a_pool_that_tries_again_and_again_is_not_part_of_it(
    stream: io.StringIO,
) -> None:
    """Whoever needs the database says once that it is away, and why."""
    configure_logs(stream=stream)
    logging.getLogger("psycopg.pool").warning("error connecting")
    logging.getLogger("psycopg").warning("pipeline aborted")
    assert lines(stream) == []


def test_a_password_in_any_value_is_hidden(stream: io.StringIO) -> None:
    configure_logs(stream=stream)
    uri = "postgresql://me:secret@host/db"
    structlog.get_logger().info("event", given={"uri": [uri]}, text=f"to {uri}")
    logging.getLogger("agent").error("to %s", uri)
    structlog.get_logger().error("failed", exc_info=raised(uri))
    assert "secret" not in stream.getvalue()
    assert stream.getvalue().count("postgresql://me:***@host/db") == 4


def test_a_traceback_is_written_once(stream: io.StringIO) -> None:
    configure_logs(stream=stream)
    error = raised("broken")
    structlog.get_logger().error("failed", exc_info=error)
    logging.getLogger("agent").error("failed", exc_info=error)
    for line in lines(stream):
        assert line["exception"].count("Traceback") == 1
        assert line["exception"].endswith("ValueError: broken")


def test_a_traceback_that_was_kept_is_shown_as_one() -> None:
    stream = io.StringIO()
    configure_logs(as_json=False, stream=stream)
    kept = "Traceback (most recent call last):\nValueError: broken"
    structlog.get_logger().error("graph.load_failed", traceback=kept)
    assert stream.getvalue().splitlines()[-1] == "ValueError: broken"


def test_the_level_holds_for_everybody_and_can_change(stream: io.StringIO) -> None:
    configure_logs(stream=stream)
    log = structlog.get_logger("threadmill.early")
    log.debug("silent")
    configure_logs(level="ERROR", stream=stream)
    log.warning("silent")
    logging.getLogger("agent").warning("silent")
    log.error("heard")
    assert [line["event"] for line in lines(stream)] == ["heard"]


@pytest.mark.parametrize(
    ("terminal", "asked", "json_expected"),
    [
        (False, None, True),
        (True, None, False),
        (True, True, True),
        (False, False, False),
    ],
)
def test_json_is_for_whatever_is_no_terminal(
    *, terminal: bool, asked: bool | None, json_expected: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    configure_logs(as_json=asked, stream=stream)
    structlog.get_logger().info("event")
    assert stream.getvalue().startswith("{") is json_expected


def test_colours_are_for_terminals_unless_they_are_refused() -> None:
    assert has_colour(Terminal(), {})
    assert not has_colour(io.StringIO(), {})
    assert not has_colour(Terminal(), {"NO_COLOR": "1"})
    assert not has_colour(Terminal(), {"TERM": "dumb"})
