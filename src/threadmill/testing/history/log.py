"""The log that clients, nodes and injectors of faults write: one JSON object a line.

A line is written whole, with one call, to a file that was opened for appending: so
several processes may share one file on a local disk, and a process that is killed
leaves at most one torn line, its last one, which is skipped. Nothing is buffered: what
`sent` wrote before the request went out is there, however the process ends.

Every line has `type`, `by` (who wrote it: times of different writers are not compared,
but for I5 and for windows of loss) and `at` (seconds). The types are the methods of
`HistoryLog`.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from threadmill.errors import SetupError
from threadmill.testing.history.facts import (
    Execution,
    Fault,
    History,
    Loss,
    Message,
    Outcome,
    Read,
    Reader,
)


class HistoryLog:
    """Writes the log of one process. Safe for several threads and processes.

    Args:
        path: is appended to; its folder exists.
        tenant: whose messages these are.
        by: a name that no other writer has; by default the host, the process and the
            object.
        clock: seconds; one that all writers share, if nodes and faults are logged.
    """

    def __init__(
        self,
        path: Path,
        *,
        tenant: str = "default",
        by: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file: int | None = os.open(path, flags, 0o644)
        self._tenant = tenant
        self._by = by or f"{socket.gethostname()}-{os.getpid()}-{id(self):x}"
        self._clock = clock

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def now(self) -> float:
        """The clock of this log, in seconds."""
        return self._clock()

    def invoke(self, message: str, *, thread: str, key: str | None = None) -> None:
        """A message is about to be sent; call it before the first try."""
        self._write("invoke", message=message, thread=thread, key=key)

    def ok(self, message: str, *, thread: str, run: str) -> None:
        """It was acknowledged."""
        self._write("ok", message=message, thread=thread, run=run)

    def fail(self, message: str, *, thread: str, why: str = "") -> None:
        """It was refused, and will not be tried again."""
        self._write("fail", message=message, thread=thread, why=why)

    def unknown(self, message: str, *, thread: str) -> None:
        """The client has given up without an answer; the same as saying nothing."""
        self._write("unknown", message=message, thread=thread)

    def read(
        self,
        thread: str,
        *,
        began_at: float,
        messages: Sequence[str] | None = None,
        checkpoint: str | None = None,
    ) -> None:
        """The state was read; call it when the answer is there.

        Args:
            thread: which.
            began_at: `now()` from before the request.
            messages: what the channel holds, in order.
            checkpoint: the checkpoint that was shown.
        """
        self._write(
            "read",
            thread=thread,
            began_at=began_at,
            messages=None if messages is None else list(messages),
            checkpoint=checkpoint,
        )

    def reader(
        self, reader: str, *, thread: str, run: str, events: Iterable[str] | None = None
    ) -> None:
        """Somebody begins to follow a run's stream, from its beginning.

        Args:
            reader: a name for `seen` and `end`; the same after a broken connection.
            thread: the run's.
            run: which.
            events: the names that it asked for; None for all.
        """
        names = None if events is None else sorted(events)
        self._write("reader", reader=reader, thread=thread, run=run, events=names)

    def seen(self, reader: str, event: str) -> None:
        """An event has come.

        Args:
            reader: who.
            event: its id, as the server sent it.
        """
        self._write("seen", reader=reader, event=event)

    def end(self, reader: str) -> None:
        """The server has ended the stream."""
        self._write("end", reader=reader)

    def node(self, node: str, *, thread: str, run: str, task: str) -> None:
        """A node begins; for nodes, before they do anything."""
        where = {"thread": thread, "run": run, "task": task}
        self._write("node", node=node, pid=os.getpid(), **where)

    def fault(
        self,
        kind: str,
        *,
        at: float,
        until: float,
        pid: int | None = None,
        thread: str | None = None,
    ) -> None:
        """Something was done to the deployment; see `Fault`.

        A fault that kills its own process is logged before it happens.
        """
        where = {"pid": pid, "thread": thread}
        self._write("fault", kind=kind, began_at=at, until=until, **where)

    def loss(self, *, at: float, until: float) -> None:
        """The database has gone back on purpose; see `Loss`.

        Log it when an asynchronous standby has become the primary, or a backup was
        restored: exactly what lies in the window is excused.

        Args:
            at: `now()` from before you saw that the standby has everything.
            until: `now()` from when the old primary was gone and its last answers had
                come, and before the standby was promoted.
        """
        self._write("loss", began_at=at, until=until)

    def _write(self, type_: str, **facts: object) -> None:
        if self._file is None:
            msg = "the log is closed"
            raise SetupError(msg)
        line = {
            "type": type_,
            "by": self._by,
            "at": self._clock(),
            "tenant": self._tenant,
            **{name: value for name, value in facts.items() if value is not None},
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read_logs(paths: Iterable[Path], *, clock_skew_seconds: float = 0.0) -> History:
    """What the logs tell; the database's half is still missing.

    Args:
        paths: in any order.
        clock_skew_seconds: how far the clocks of their writers may be apart.

    Raises:
        SetupError: a file is missing, or a line is not of this format.
    """
    told = _Told()
    for path in paths:
        for number, line in _lines(path):
            try:
                told.add(line)
            except (KeyError, TypeError, ValueError) as error:
                msg = (
                    f"{path}, line {number}: {type(error).__name__} {error}; write "
                    "logs with threadmill.testing.history.HistoryLog"
                )
                raise SetupError(msg) from error
    told.finish()
    return History(
        messages=tuple(told.messages.values()),
        reads=tuple(told.reads),
        readers=tuple(told.readers.values()),
        executions=tuple(told.executions),
        faults=tuple(told.faults),
        losses=tuple(told.losses),
        clock_skew_seconds=clock_skew_seconds,
    )


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"the log {path} cannot be read: {error}"
        raise SetupError(msg) from error
    for number, line in enumerate(text.splitlines(), 1):
        try:
            yield number, json.loads(line)
        except ValueError as error:
            # Of a killed writer, which may have been one of several: a torn line.
            if line.endswith("}"):
                msg = f"{path}, line {number} is not JSON: {error}"
                raise SetupError(msg) from error


class _Told:
    """What the lines read so far have told."""

    def __init__(self) -> None:
        self.messages: dict[tuple[str, str, str], Message] = {}
        self.reads: list[Read] = []
        self.readers: dict[tuple[str, str], Reader] = {}
        self.executions: list[Execution] = []
        self.faults: list[Fault] = []
        self.losses: list[Loss] = []
        self._seen: dict[tuple[str, str], list[tuple[str, float]]] = {}

    def add(self, line: dict[str, Any]) -> None:
        match line["type"]:
            case "invoke":
                self._invoked(line)
            case "ok" | "fail" | "unknown":
                self._answered(line)
            case "read":
                self._read(line)
            case "reader" | "seen" | "end":
                self._followed(line)
            case "node":
                names = ("thread", "run", "task", "node", "pid", "at")
                self.executions.append(Execution(**{n: line[n] for n in names}))
            case "fault":
                self.faults.append(
                    Fault(
                        kind=line["kind"],
                        at=line["began_at"],
                        until=line["until"],
                        pid=line.get("pid"),
                        thread=line.get("thread"),
                    )
                )
            case "loss":
                self.losses.append(Loss(at=line["began_at"], until=line["until"]))
            case other:
                msg = f"an unknown type {other!r}"
                raise ValueError(msg)

    def _invoked(self, line: dict[str, Any]) -> None:
        message = Message(
            id=line["message"],
            tenant=line["tenant"],
            thread=line["thread"],
            by=line["by"],
            invoked_at=line["at"],
            key=line.get("key"),
        )
        self.messages.setdefault((message.tenant, message.thread, message.id), message)

    def _answered(self, line: dict[str, Any]) -> None:
        key = line["tenant"], line["thread"], line["message"]
        if key not in self.messages:
            self._invoked(line)
        self.messages[key] = replace(
            self.messages[key],
            outcome=Outcome(line["type"]),
            run=line.get("run"),
            ended_at=line["at"] if line["type"] == "ok" else None,
        )

    def _read(self, line: dict[str, Any]) -> None:
        messages = line.get("messages")
        self.reads.append(
            Read(
                tenant=line["tenant"],
                thread=line["thread"],
                by=line["by"],
                began_at=line["began_at"],
                ended_at=line["at"],
                messages=None if messages is None else tuple(messages),
                checkpoint=line.get("checkpoint"),
            )
        )

    def _followed(self, line: dict[str, Any]) -> None:
        key = line["by"], line["reader"]
        if line["type"] == "reader":
            names = line.get("events")
            self.readers[key] = Reader(
                id=line["reader"],
                tenant=line["tenant"],
                thread=line["thread"],
                run=line["run"],
                events=None if names is None else frozenset(names),
            )
            return
        reader = self.readers[key]
        if line["type"] == "seen":
            # Readers see many events: their tuple is made once, at the end.
            told = line["event"], line["at"]
            self._seen.setdefault(key, []).append(told)
        else:
            self.readers[key] = replace(reader, whole=True, ended_at=line["at"])

    def finish(self) -> None:
        """Gives the readers what they have seen; after the last line."""
        for key, seen in self._seen.items():
            events, times = zip(*seen, strict=True)
            self.readers[key] = replace(self.readers[key], seen=events, seen_at=times)
