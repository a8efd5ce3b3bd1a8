"""How a process lives: until a signal, and then no longer than it promised.

The first SIGTERM or SIGINT asks: the process drains and ends with 0. A second one ends
it at once. However the asking goes, two watchdogs see to the end: one for a drain that
takes longer than its grace, one for threads that never return, which Python's own exit
would wait for.

Signals are handled between two byte codes of the main thread and not by the event loop,
so that they work while a node blocks the loop.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

import structlog

from threadmill.cli.console import complain
from threadmill.domain.draining import THREADS_SECONDS, exit_seconds
from threadmill.errors import Error

_log = structlog.get_logger(__name__)

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_LAST_LINE_SECONDS: Final = 0.5
_THREADS: Final = "threads are still running"


class Stop:
    """Whether this process was asked to end; belongs to one event loop.

    Until `heeded`, being asked cancels the start-up: there is nothing to drain.

    Args:
        grace_seconds: how long a drain takes at most; see `exit_seconds`.
    """

    def __init__(self, *, grace_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._starting = asyncio.current_task()
        self._event = asyncio.Event()
        self._signalled = False
        # Made now: a signal may come while this very thread starts another one.
        self._draining = threading.Event()
        self._over = threading.Event()
        end_within(
            exit_seconds(grace_seconds),
            1,
            why="it did not drain in time",
            after=self._draining,
            unless=self._over,
        )

    @property
    def asked(self) -> bool:
        """Whether somebody did."""
        return self._event.is_set()

    async def heeded(self) -> None:
        """Waits until somebody asks; from now on that is all that asking does."""
        self._starting = None
        await self._event.wait()

    def over(self) -> None:
        """The process has drained: what it does now has limits of its own."""
        self._over.set()

    def ask(self) -> None:
        """Asks the process to end; called on the event loop, safe to call twice."""
        if self._event.is_set():
            return
        _log.info("process.stopping")
        self._event.set()
        if self._starting is not None:
            self._starting.cancel()

    def ask_from_thread(self) -> None:
        """The same, called from another thread or from a signal's handler."""
        self._draining.set()
        with suppress(RuntimeError):  # the loop is closed: it has ended already
            self._loop.call_soon_threadsafe(self.ask)

    @contextmanager
    def on_signals(self, numbers: Sequence[signal.Signals]) -> Iterator[None]:
        """Signals ask, while the block runs; the second one ends the process."""
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            # Asked already: from here on a signal ends the process at once.
            for number, handler in before.items():
                signal.signal(number, _end_now if self._signalled else handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            _end_now(number, frame)
        self._signalled = True
        self.ask_from_thread()


Main = Callable[[Stop], Awaitable[None]]


def live(
    main: Main,
    *,
    grace_seconds: float,
    threads_seconds: float = THREADS_SECONDS,
    signals: Sequence[signal.Signals] = SIGNALS,
) -> int:
    """Runs `main` on a new event loop until it returns; gives the exit code.

    Threads that do not return then end the process.

    Args:
        main: told through its `Stop` when to end.
        grace_seconds: how long it then takes at most.
        threads_seconds: how long threads that still run are waited for.
        signals: what asks it to end.
    """

    async def until_stopped() -> None:
        stop = Stop(grace_seconds=grace_seconds)
        with stop.on_signals(signals):
            try:
                await main(stop)
            except asyncio.CancelledError:
                if not stop.asked:
                    raise
            finally:
                stop.over()

    closed = threading.Event()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = 0
        try:
            runner.run(until_stopped())
        except Exception as error:  # noqa: BLE001 - the root of the process
            code = _report(error)
        # Closing the loop waits for the threads of blocking nodes.
        end_within(threads_seconds, code, why=_THREADS, unless=closed)
    closed.set()
    return code


def _report(error: BaseException) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Error):
        complain(str(error))
    else:
        _log.critical("process.failed", exc_info=error)
    return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop, which is not installed on Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def end_within(
    seconds: float,
    code: int,
    *,
    why: str = _THREADS,
    after: threading.Event | None = None,
    unless: threading.Event | None = None,
) -> None:
    """Ends the process after a while, if it has not ended by itself.

    Args:
        seconds: how long it may take.
        code: what it then exits with.
        why: said in the log.
        after: what must happen first.
        unless: what must not happen meanwhile.
    """

    def watch() -> None:
        if after is not None:
            after.wait()
        if (unless or threading.Event()).wait(seconds):
            return
        # A thread that is stuck may hold the logs' lock: nobody waits for this line.
        line = threading.Thread(target=tell, daemon=True)
        line.start()
        line.join(_LAST_LINE_SECONDS)
        _leave(code)

    def tell() -> None:
        _log.warning("process.ended_by_force", why=why)

    threading.Thread(target=watch, name="end", daemon=True).start()


def leave_quickly(code: int) -> NoReturn:
    """Ends the process without tearing its modules down, which takes half a second.

    What was registered with `atexit` runs; threads are not waited for.
    """
    atexit._run_exitfuncs()  # noqa: SLF001 - what Python itself would call
    _leave(code)


def _end_now(number: int, _frame: FrameType | None) -> None:
    _leave(128 + number)


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(code)
