"""Virtual time: one world, and an event loop for each thread of each process in it.

Nothing waits for a real clock. The world keeps what is to happen in one heap and goes
from one instant to the next. Each simulated thread has an asyncio loop of its own, so
that it can stand still (`freeze`) or be gone (`kill`) while the others go on, and so
that its monotonic clock may begin anywhere and run fast or slow.

Order is part of the promise: within a loop callbacks run first in, first out, as
asyncio's do, and loops take turns in the order in which they got something to do. So
one seed gives one order of everything.
"""

from __future__ import annotations

import asyncio
import heapq
import warnings
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any


class Handle(list[Any]):
    """A callback, its arguments, its context; a list, as most are never called off.

    asyncio's own, and any class with an `__init__`, cost three times as much.
    """

    __slots__ = ()

    def cancel(self) -> None:
        """See `asyncio.Handle.cancel`."""
        self[0] = None

    def cancelled(self) -> bool:
        """See `asyncio.Handle.cancelled`."""
        return self[0] is None

    def when(self) -> float:
        """See `asyncio.TimerHandle.when`."""
        when: float = self[3]
        return when


class World:
    """The time of a simulation, and what is to happen at which instant."""

    def __init__(self) -> None:
        self.now = 0.0
        self.failures: list[str] = []
        self._due: list[tuple[float, int, Callable[..., object], Any]] = []
        self._drawn = 0
        self._turns: deque[ThreadLoop] = deque()
        self._loops: list[ThreadLoop] = []

    def at(self, instant: float, callback: Callable[..., object], *args: Any) -> None:
        """Calls `callback` at that instant, after what was asked for before."""
        self._drawn += 1
        instant = max(self.now, instant)
        heapq.heappush(self._due, (instant, self._drawn, callback, args))

    def after(
        self, seconds: float, callback: Callable[..., object], *args: Any
    ) -> None:
        """Calls `callback` so much later."""
        self._drawn += 1
        heapq.heappush(self._due, (self.now + seconds, self._drawn, callback, args))

    def thread(self, name: str, *, began: float = 0.0, rate: float = 1.0) -> ThreadLoop:
        """A new thread; its clock shows `began` at the world's zero, and runs so fast.

        Args:
            name: for the trace.
            began: seconds.
            rate: its seconds in one second of the world.
        """
        loop = ThreadLoop(self, name, began, rate)
        self._loops.append(loop)
        return loop

    def run(self, *, over: Callable[[], bool], until: float) -> bool:
        """Lets things happen until it is over; False if it is not by that instant."""
        try:
            return self._run(over, until)
        finally:
            events._set_running_loop(None)

    def _run(self, over: Callable[[], bool], until: float) -> bool:
        turns, due = self._turns, self._due
        while True:
            while turns:
                turns.popleft().turn()
            if over():
                return True
            if not due or due[0][0] > until:
                return False
            self.now, _, callback, args = heapq.heappop(due)
            callback(*args)

    def close(self) -> None:
        """Ends every coroutine that is left; nothing of them is seen any more."""
        for loop in self._loops:
            loop.kill()
        for loop in self._loops:
            loop.close()

    @property
    def turns(self) -> deque[ThreadLoop]:
        """The loops that have something to do, in order."""
        return self._turns


class ThreadLoop:
    """The event loop of one simulated thread; see `World.thread`.

    Of an event loop it has what asyncio itself and the code under test use.
    """

    def __init__(self, world: World, name: str, began: float, rate: float) -> None:
        self.name = name
        self.dead = False
        self._world = world
        self._turns = world.turns
        self._began = began
        self._rate = rate
        self._frozen = 0
        self._waits = False
        self._ready: deque[Handle] = deque()
        self._itself: Any = self
        self._made: list[Coroutine[Any, Any, Any]] = []

    # --- what befalls a thread -------------------------------------------------------

    def kill(self) -> None:
        """It does nothing any more; what it has sent is under way."""
        self.dead = True
        self._ready.clear()

    def freeze(self, seconds: float) -> None:
        """It stands still, in the world's time, and then goes on as if nothing was."""
        self._frozen += 1
        self._world.after(seconds, self._thaw)

    @property
    def frozen(self) -> bool:
        """Whether it stands still now."""
        return self._frozen > 0

    def _thaw(self) -> None:
        self._frozen -= 1
        self._want_turn()

    def turn(self) -> None:
        """Runs what is ready, and what becomes ready by that.

        Tasks bring their contexts; nothing else here looks at one.
        """
        self._waits = False
        ready = self._ready
        events._set_running_loop(self)  # type: ignore[arg-type]
        try:
            while ready and not self._frozen:
                callback, args, context, _ = ready.popleft()
                if callback is None:
                    continue
                if context is None:
                    callback(*args)
                else:
                    context.run(callback, *args)
        except Exception as error:  # noqa: BLE001 - as a loop does: told, not raised
            self._world.failures.append(f"{self.name}: a callback raised {error!r}")
            self._want_turn()

    def _want_turn(self) -> None:
        if not self._waits and self._ready and not self._frozen:
            self._waits = True
            self._turns.append(self)

    def _fire(self, handle: Handle) -> None:
        if handle[0] is not None:
            self._add(handle)

    def _add(self, handle: Handle) -> Handle:
        if not self.dead:
            self._ready.append(handle)
            if not self._waits and not self._frozen:
                self._waits = True
                self._turns.append(self)
        return handle

    # --- what asyncio needs ----------------------------------------------------------

    def time(self) -> float:
        """Its monotonic clock."""
        return self._began + self._world.now * self._rate

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Handle:
        return self._add(Handle((callback, args, context, None)))

    call_soon_threadsafe = call_soon

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Any = None,
    ) -> Handle:
        handle = Handle((callback, args, context, when))
        self._world.at((when - self._began) / self._rate, self._fire, handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Any = None,
    ) -> Handle:
        handle = Handle((callback, args, context, self.time() + delay))
        self._world.after(max(0.0, delay) / self._rate, self._fire, handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._itself)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self._itself, **options)
        # A killed thread's tasks stay where they are.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._made.append(coro)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._world.failures.append(f"{self.name}: {context['message']}: {error!r}")

    def close(self) -> None:
        with warnings.catch_warnings():
            # Work that was to be awaited by what never began.
            warnings.simplefilter("ignore", RuntimeWarning)
            for coro in self._made:
                try:
                    coro.close()
                except (RuntimeError, ValueError):
                    continue  # it waits while it ends; nobody looks any more
            self._made.clear()

    # Asked for each future: `bool()` is False, and costs no call of Python's.
    get_debug = bool

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.dead

    def get_task_factory(self) -> None:
        return None

    def set_task_factory(self, factory: object) -> None:
        """Nothing in here calls `exit()`."""

    def set_default_executor(self, executor: object) -> None:
        """There are no threads but those of the simulation."""
