"""Slots: how many activations a worker runs at once.

A blocking node runs in a thread, and a thread cannot be cancelled. Its slot stays taken
until the thread returns, whatever has become of the activation: otherwise stuck nodes
would pile up behind a worker that looks idle.

Threads are shared out among the slots, so that a wide superstep of blocking nodes waits
for itself and not everybody else for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final

_SLOT: Final[ContextVar[Slot | None]] = ContextVar("slot", default=None)
# Wide supersteps of blocking nodes want more threads than slots.
_THREADS_PER_SLOT: Final = 8
_THREADS_MIN: Final = 32


def threads_of_slot(slots: int) -> int:
    """How many blocking nodes of one activation run at once."""
    return max(_THREADS_MIN, slots * _THREADS_PER_SLOT) // max(slots, 1)


class Slot:
    """One taken slot; free again when its activation and its threads are through."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._users = 1
        self.threads = 0
        self.queue: deque[Callable[[], None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether as many blocking nodes run as a worker takes of one activation."""
        total = self._slots.total
        return self.threads >= min(total, threads_of_slot(total))

    def enter(self) -> None:
        """Marks the running task: threads that it starts belong to this slot."""
        _SLOT.set(self)

    def hold(self) -> None:
        """Somebody else uses the slot too."""
        self._users += 1

    def let_go(self) -> None:
        """One user less; called on the event loop."""
        self._users -= 1
        if self._users == 0:
            self._slots.put_back()


class Slots:
    """Counts taken slots. Belongs to one event loop.

    Args:
        total: how many there are.
        on_free: called when a slot becomes free.
    """

    def __init__(self, total: int, *, on_free: Callable[[], None]) -> None:
        self.total = total
        self.taken = 0
        self._on_free = on_free

    @property
    def free(self) -> int:
        """How many may be taken now."""
        return self.total - self.taken

    def take(self) -> Slot:
        """Takes one; the caller has seen that one is free."""
        self.taken += 1
        return Slot(self)

    def put_back(self) -> None:
        """Called by the slot itself."""
        self.taken -= 1
        self._on_free()


class SlotThreads(ThreadPoolExecutor):
    """The event loop's executor: threads hold the slot of the task that starts them.

    Args:
        slots: how many slots the worker has.
        loop: the worker's loop.
    """

    def __init__(self, slots: int, loop: asyncio.AbstractEventLoop) -> None:
        self._share = threads_of_slot(slots)
        threads = self._share * max(slots, 1)
        super().__init__(max_workers=threads, thread_name_prefix="node")
        self._loop = loop
        self._sharing = threading.Lock()

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Starts `fn` in a thread; see `ThreadPoolExecutor.submit`."""
        slot = _SLOT.get()
        if slot is None:
            return super().submit(fn, *args, **kwargs)
        slot.hold()
        future: Future[Any] = Future()
        with self._sharing:
            slot.queue.append(lambda: _carry_out(future, fn, args, kwargs))
            if slot.threads == self._share:
                return future
            slot.threads += 1
        super().submit(self._work_off, slot)
        return future

    def _work_off(self, slot: Slot) -> None:
        """One thread of a slot: does what is queued for it, then is anybody's again."""
        while True:
            with self._sharing:
                if not slot.queue:
                    slot.threads -= 1
                    return
                work = slot.queue.popleft()
            work()
            self._let_go(slot)

    def _let_go(self, slot: Slot) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(slot.let_go)


def _carry_out(
    future: Future[Any],
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
        future.set_exception(error)
    else:
        future.set_result(result)
