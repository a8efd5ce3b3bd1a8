"""The event loop that a saver's connections belong to, reachable from any thread.

Connections live on one event loop. LangGraph calls a saver from that loop, from other
loops, and from plain threads; each call has to end up at home. A thread that waits for
home while it is home would wait for ever: that is refused.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar

from threadmill.errors import InvalidRequest, SetupError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

T = TypeVar("T")


class Home:
    """Runs coroutines on one event loop, for callers on any thread.

    Until somebody moves in, the first caller's loop becomes home.

    Args:
        wait_seconds: how long a thread waits before it looks whether the loop runs.
        saver: how errors name whose home it is.
        opening: how one is opened.
    """

    def __init__(
        self,
        *,
        wait_seconds: float,
        saver: str = "PostgresSaver",
        opening: str = "PostgresSaver.from_conn_string(...)",
    ) -> None:
        self.wait_seconds = wait_seconds
        self._saver, self._opening = saver, opening
        self._open = True
        self._loop: asyncio.AbstractEventLoop | None = None

    def move_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, work is done on `loop`."""
        self._open, self._loop = True, loop

    def close(self) -> None:
        """Until somebody moves in, work is refused."""
        self._open, self._loop = False, None

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits `work` at home; cancelling the caller cancels it there.

        Raises:
            SetupError: there is no home yet, or no longer.
        """
        running = asyncio.get_running_loop()
        if self._loop is None and self._open:
            self._loop = running
        if self._loop is running:
            return await work
        return await asyncio.wrap_future(self._send(work))

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Blocks the calling thread until `work` is done at home.

        Raises:
            SetupError: there is no home yet, or no longer.
            InvalidRequest: called at home itself, where it would never return.
            StoreUnavailable: the home loop does not run.
        """
        running = running_loop()
        if running is not None and running is self._loop:
            work.close()
            msg = (
                f"a synchronous method of {self._saver} was called on the event loop "
                "that has to answer it; use the async interface there "
                "(`await graph.ainvoke(...)`, `await saver.aget_tuple(...)`)"
            )
            raise InvalidRequest(msg)
        future = self._send(work)
        while True:
            try:
                return future.result(self.wait_seconds)
            except FutureTimeoutError:
                if future.done():  # meanwhile, or the work has raised this itself
                    return future.result()
                # Work may be many transactions, each with a limit of its own.
                if self._goes_on():
                    continue
                future.cancel()
                msg = f"the event loop that {self._saver} was opened on does not run"
                raise StoreUnavailable(msg) from None

    def _goes_on(self) -> bool:
        """Whether the home loop runs what it is given."""
        ran = threading.Event()
        try:
            assert self._loop is not None  # noqa: S101 - something was sent there
            self._loop.call_soon_threadsafe(ran.set)
        except RuntimeError:
            return False
        return ran.wait(self.wait_seconds)

    def _send(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop is None or self._loop.is_closed():
            work.close()
            msg = (
                f"{self._saver} is not open; use it inside "
                f"`with {self._opening} as saver:` (or `async with`)"
            )
            raise SetupError(msg)
        return asyncio.run_coroutine_threadsafe(work, self._loop)


class BackgroundLoop:
    """An event loop on a thread of its own, for programs that have none."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="threadmill-saver", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and closes the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs on this thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
