"""Logs: one stream of lines on standard error, whoever wrote them.

Why: a line that another library prints beside ours, or that holds a password, is found
out when it is too late. So the standard library's loggers (uvicorn's, LangGraph's, the
user's own) and structlog's end in one handler, and every finished line passes one
filter.

Promises: a password or a NATS token in a URI, or a `password=`, never reaches the
stream, in whatever value or traceback it stands. A traceback is written once, after its
event. On a terminal lines are for people, elsewhere they are JSON objects.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# Up to the last @ that may belong to it: a password may hold an @ or a slash that was
# not escaped, and also a quote, if no slash comes before the host.
_IN_URI: Final = re.compile(r"""(?<=://)([^\s:/?#@]*):(?:[^\s"']*@|[^\s/]*@)""")
# A NATS token stands where other URIs have a user, who is no secret. Up to the last @
# of a list of servers; a password has been hidden by then.
_TOKEN: Final = re.compile(
    r"""(?<![\w+.-])((?:nats|tls)://)(?![^\s/@]*:\*\*\*@)[^\s/"']*@"""
)
# The value ends with the quote that it began with, escaped as often (JSON in JSON).
_IN_PAIR: Final = re.compile(
    r"""(?ix) \b (\w*password \\*["']? \s* [=:] \s*)
    (?: (\\*["']) .*? \2 | [^\s&,"'}\\]+ )"""
)
_HIDDEN: Final = "***"

# What they tell at INFO we say ourselves, or nobody reads.
_QUIET: Final = ("uvicorn", "watchfiles", "httpx", "httpcore")


def configure_logs(
    *, level: str = "INFO", as_json: bool | None = None, stream: TextIO | None = None
) -> None:
    """Sends every log of this process to one place; may be called again.

    Args:
        level: the least severe line that is written.
        as_json: JSON lines or lines for people; None means JSON unless `stream` is a
            terminal.
        stream: where to; standard error when None.
    """
    target = sys.stderr if stream is None else stream
    json = (not target.isatty()) if as_json is None else as_json
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # The second call, with the settings, must reach loggers used before it.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(_RedactingFormatter(json=json, colour=has_colour(target)))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # It warns of every pipeline that a refused transaction aborts, which is an answer,
    # and its pool of every attempt to connect while the database is away.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    # Of every attempt to connect, at ERROR, while the broker is away; we say it once.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    logging.captureWarnings(capture=True)


def has_colour(stream: TextIO, environ: Mapping[str, str] | None = None) -> bool:
    """Whether colours belong on `stream`: on a terminal, unless NO_COLOR is set."""
    variables = os.environ if environ is None else environ
    if variables.get("NO_COLOR"):
        return False
    return stream.isatty() and variables.get("TERM") != "dumb"


def redact(text: str) -> str:
    """`text` without passwords and tokens of URIs, and values of `password=`."""
    if "://" in text:
        text = _IN_URI.sub(rf"\1:{_HIDDEN}@", text)
        text = _TOKEN.sub(rf"\1{_HIDDEN}@", text)
    if "assword" in text or "ASSWORD" in text:
        text = _IN_PAIR.sub(rf"\1\2{_HIDDEN}\2", text)
    return text


class _RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """Renders a line and hides secrets in the whole of it."""

    def __init__(self, *, json: bool, colour: bool) -> None:
        remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
        steps: list[Processor] = [remove, _traceback_as_exception, _in_order]
        if json:
            steps += [
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(default=repr, ensure_ascii=False),
            ]
        else:
            # Tracebacks without local variables, which hold users' messages.
            plain = structlog.dev.plain_traceback
            steps.append(
                structlog.dev.ConsoleRenderer(colors=colour, exception_formatter=plain)
            )
        super().__init__(processors=steps, foreign_pre_chain=_shared())

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        return redact(super().format(record))


def _shared() -> list[Processor]:
    """What happens to every event, ours or another library's."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]


def _traceback_as_exception(
    _logger: WrappedLogger, _method: str, event: EventDict
) -> EventDict:
    """A traceback that was kept as text is shown like one that is being raised."""
    kept: Any = event.pop("traceback", None)
    if kept is not None and not event.get("exc_info"):
        event["exception"] = kept
    return event


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """When, how bad, who and what come first, so that lines can be scanned."""
    first = ("timestamp", "level", "logger", "event")
    return {**{name: event[name] for name in first if name in event}, **event}
