"""Use-case: a node does something outside, and no other attempt does it a second time.

Before the call its intent is recorded, after it its outcome, each in a transaction that
holds the fence. Whoever finds an outcome returns it and does not call. Whoever finds an
intent cannot know whether the call has happened: the process died in between, or the
function raised. Then the node's author has said what to do: call again, fail, or ask a
human.

A stale worker records nothing, and does not call what it could not record. What no
record can prevent is that a worker which hangs inside the call goes on with it later;
under `retry` two calls may then overlap. That is what the receiver's idempotency key is
for, which every call of one effect is given alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from inspect import isawaitable, iscoroutinefunction
from threading import Lock
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID, uuid4, uuid5

from langgraph.types import interrupt

from threadmill.checkpoints.codec import Codec
from threadmill.checkpoints.compression import Blob
from threadmill.checkpoints.home import Home
from threadmill.domain.fence import Fence
from threadmill.engine.activation.identity import TaskIdentity
from threadmill.engine.uncancelled import uncancelled
from threadmill.errors import (
    EffectNotDone,
    EffectUnknown,
    GraphFailed,
    InvalidRequest,
    InvariantViolated,
    LeaseLost,
    NotFound,
    Unavailable,
)
from threadmill.faults import Faults
from threadmill.stores.effects import (
    EffectCall,
    Effects,
    EffectState,
    FoundEffect,
    Outcome,
    SyncEffects,
)

T = TypeVar("T")

# Where nodes find their book: see `identity.TASK_KEY` for the underscores.
BOOK_KEY: Final = "__threadmill_effects"
KEY_CHARACTERS_MAX: Final = 512

_KEYS: Final = UUID("0c8f3a52-6c39-4f1d-a8a3-3b7e2f5d9a10")
# A transaction whose answer was lost is repeated: what it would leave is a question
# that somebody has to answer. Also how long a graph's checkpoint may be on its way.
_PAUSES_SECONDS: Final = (0.05, 0.2, 0.5, 1.0)
_HOME_SECONDS: Final = 120.0


class OnUnknown(StrEnum):
    """What to do when an effect may have happened already."""

    FAIL = "fail"
    RETRY = "retry"
    ASK = "ask"


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPorts:
    """Where effects are recorded.

    Args:
        effects: for nodes that await.
        blocking: for nodes that block.
        codec: how outcomes are laid out.
        faults: what tests make happen around each step of a record.
    """

    effects: Effects
    blocking: SyncEffects
    codec: Codec
    faults: Faults = field(default_factory=Faults)

    def book(
        self,
        fence: Fence,
        fence_of: Callable[[str], Fence],
        refuse: Callable[[BaseException], None],
    ) -> EffectBook:
        """The book of an entry that was claimed with `fence`; see there."""
        return EffectBook(
            self,
            tenant=fence.tenant,
            thread_id=fence.thread_id,
            fence_of=fence_of,
            refuse=refuse,
        )


@dataclass(frozen=True, slots=True)
class _Effect:
    """One call of `effect` by a node."""

    task: TaskIdentity
    key: str
    on_unknown: OnUnknown
    idempotency_key: str
    call: EffectCall
    fence: Fence


class _Hand(Protocol):
    """How the steps are taken: awaiting, or without ever suspending."""

    async def begin(self, effect: _Effect) -> FoundEffect: ...

    async def again(self, effect: _Effect, answers: int) -> None: ...

    async def done(self, effect: _Effect, outcome: Outcome) -> None: ...

    async def void(self, effect: _Effect) -> None: ...

    async def call(self, fn: Callable[[str], Any], key: str) -> Any: ...

    async def pause(self, seconds: float) -> None: ...

    async def passes(self, side: str) -> None: ...


class EffectBook:
    """What the nodes of one entry record their effects with. Any thread may call.

    Belongs to the event loop that it is made on.

    Args:
        ports: where effects are recorded.
        tenant: the run's.
        thread_id: the run's.
        fence_of: the right under which a task acts, by the place of its activation.
        refuse: told when the right is lost or the store fails: the attempt ends by it,
            whatever the node makes of the error.
    """

    def __init__(
        self,
        ports: EffectPorts,
        *,
        tenant: str,
        thread_id: UUID,
        fence_of: Callable[[str], Fence],
        refuse: Callable[[BaseException], None],
    ) -> None:
        self._ports = ports
        self._thread = uuid5(uuid5(_KEYS, tenant), str(thread_id))
        self._fence_of = fence_of
        self._refuse = refuse
        self._home = Home(wait_seconds=_HOME_SECONDS)
        self._home.move_in(asyncio.get_running_loop())
        self._under_way: set[tuple[str, str]] = set()
        self._lock = Lock()

    def idempotency_key(self, task: TaskIdentity) -> str:
        """A UUID of the task: the same in every attempt, and no other task's."""
        return str(uuid5(self._thread, task.name))

    async def perform(
        self, task: TaskIdentity, key: str, fn: Callable[[str], Any], on_unknown: str
    ) -> Any:
        """See `threadmill.effect`."""
        effect = self._effect(task, key, on_unknown)
        hand = _Awaiting(self._ports.effects, self._home, self._ports.faults)
        with self._alone(effect):
            return await self._course(effect, fn, hand)

    def perform_blocking(
        self, task: TaskIdentity, key: str, fn: Callable[[str], Any], on_unknown: str
    ) -> Any:
        """See `threadmill.effect_sync`."""
        if iscoroutinefunction(fn):
            raise InvalidRequest(
                f"effect '{key}': effect_sync was given an async function; use "
                "`await threadmill.effect(...)` in an async node"
            )
        effect = self._effect(task, key, on_unknown)
        hand = _Blocking(self._ports.blocking, self._ports.faults)
        with self._alone(effect):
            return _without_loop(self._course(effect, fn, hand))

    async def _course(
        self, effect: _Effect, fn: Callable[[str], Any], hand: _Hand
    ) -> Any:
        """The one way of an effect, whichever hand takes its steps."""
        found = await _begun(effect, hand)
        questions = _Questions(effect, found)
        if found.state is EffectState.DONE:
            return self._value(found.outcome)
        if not found.is_mine:
            settled = questions.settle()
            await _safely(hand, lambda: hand.again(effect, questions.answers))
            if settled is not None:
                return await self._recorded(effect, hand, settled.value)
        try:
            value = await hand.call(fn, effect.idempotency_key)
        except EffectNotDone:
            await _safely(hand, lambda: hand.void(effect))
            raise
        return await self._recorded(effect, hand, value)

    async def _recorded(self, effect: _Effect, hand: _Hand, value: Any) -> Any:
        """The outcome as every later attempt will read it, once it is durable."""
        what = f"the outcome of effect '{effect.key}', which has happened,"
        blob = self._ports.codec.value(value, what)
        outcome = Outcome(blob.type, blob.data)
        await _safely(hand, lambda: hand.done(effect, outcome))
        return self._value(outcome)

    def _value(self, outcome: Outcome | None) -> Any:
        if outcome is None:
            raise InvariantViolated("an effect is done and has no outcome")
        return self._ports.codec.load_value(Blob(outcome.type, outcome.data))

    def _effect(self, task: TaskIdentity, key: str, on_unknown: str) -> _Effect:
        if not 0 < len(key) <= KEY_CHARACTERS_MAX:
            raise InvalidRequest(
                f"an effect's key is a string of 1 to {KEY_CHARACTERS_MAX} characters"
            )
        if "\x00" in key:
            raise InvalidRequest("an effect's key holds a NUL character")
        if on_unknown not in set(OnUnknown):
            raise InvalidRequest(
                f"effect '{key}': on_unknown is 'fail', 'retry' or 'ask', not "
                f"'{on_unknown}'"
            )
        return _Effect(
            task=task,
            key=key,
            on_unknown=OnUnknown(on_unknown),
            idempotency_key=str(uuid5(UUID(self.idempotency_key(task)), key)),
            call=EffectCall(task.name, key, uuid4(), task.under),
            fence=self._fence_of(task.task_path),
        )

    @contextmanager
    def _alone(self, effect: _Effect) -> Iterator[None]:
        """Keeps out a second call of the same effect, and watches the store.

        An intent of this process whose call is still under way must not be taken for
        an unknown one.
        """
        name = (effect.task.name, effect.key)
        with self._lock:
            if name in self._under_way:
                raise InvalidRequest(
                    f"effect '{effect.key}' of this task is under way already; give "
                    "every effect of a task a key of its own"
                )
            self._under_way.add(name)
        try:
            yield
        except (LeaseLost, Unavailable) as error:
            self._refuse(error)
            raise
        finally:
            with self._lock:
                self._under_way.discard(name)


@dataclass(frozen=True, slots=True)
class _Settled:
    """What a human says the outcome was."""

    value: Any


class _Questions:
    """What is asked of a human about one effect.

    LangGraph knows a task's questions by their order alone. So a question that was
    answered is put again in every later attempt, where LangGraph answers it by itself:
    left out, its answer would go to the node's next question.
    """

    def __init__(self, effect: _Effect, found: FoundEffect) -> None:
        self._effect = effect
        self._found = found
        self.answers = found.answers
        for _ in range(found.answers):
            self._ask()

    def settle(self) -> _Settled | None:
        """What to do about an unknown outcome; None: call again.

        Raises:
            EffectUnknown: the node's author wants it to fail.
            GraphInterrupt: a human is asked.
        """
        effect = self._effect
        match effect.on_unknown:
            case OnUnknown.RETRY:
                return None
            case OnUnknown.FAIL:
                raise EffectUnknown(
                    f"effect '{effect.key}' of node '{effect.task.node}' may have "
                    f"happened: it was begun at {self._found.since.isoformat()} and "
                    "its outcome is not recorded. Ask the receiver by the idempotency "
                    f"key {effect.idempotency_key}; on_unknown='retry' or 'ask' lets "
                    "the node go on"
                )
            case OnUnknown.ASK:
                return self._answer()

    def _answer(self) -> _Settled | None:
        answer = self._ask()
        while True:
            self.answers += 1
            if isinstance(answer, dict):
                if answer.get("retry") is True and len(answer) == 1:
                    return None
                if set(answer) == {"outcome"}:
                    return _Settled(answer["outcome"])
            answer = self._ask(not_understood=answer)

    def _ask(self, **more: Any) -> Any:
        effect = self._effect
        return interrupt(
            {
                "effect": effect.key,
                "node": effect.task.node,
                "when": self._found.since.isoformat(),
                "idempotency_key": effect.idempotency_key,
                "question": "This may have happened already: it was begun, and its "
                'outcome was never recorded. Answer {"retry": true} to do it again, '
                'or {"outcome": ...} with what it led to.',
                **more,
            }
        )


class _Awaiting:
    """Takes the steps on the activation's loop, whichever loop asks."""

    def __init__(self, effects: Effects, home: Home, faults: Faults) -> None:
        self._effects = effects
        self._home = home
        self._faults = faults

    async def begin(self, effect: _Effect) -> FoundEffect:
        return await self._home.run(self._effects.begin(effect.fence, effect.call))

    async def again(self, effect: _Effect, answers: int) -> None:
        work = self._effects.again(effect.fence, effect.call, answers)
        await self._home.run(work)

    async def done(self, effect: _Effect, outcome: Outcome) -> None:
        """Under cancellation the outcome is recorded first: nobody else knows it."""
        work = self._effects.done(effect.fence, effect.call, outcome)
        await uncancelled(self._home.run(work))

    async def void(self, effect: _Effect) -> None:
        await self._home.run(self._effects.void(effect.fence, effect.call))

    async def call(self, fn: Callable[[str], Any], key: str) -> Any:
        value = fn(key)
        return await value if isawaitable(value) else value

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def passes(self, side: str) -> None:
        await self._faults.at(f"effect.{side}")


class _Blocking:
    """Takes the steps on the calling thread; nothing here suspends."""

    def __init__(self, effects: SyncEffects, faults: Faults) -> None:
        self._effects = effects
        self._faults = faults

    async def begin(self, effect: _Effect) -> FoundEffect:
        return self._effects.begin(effect.fence, effect.call)

    async def again(self, effect: _Effect, answers: int) -> None:
        self._effects.again(effect.fence, effect.call, answers)

    async def done(self, effect: _Effect, outcome: Outcome) -> None:
        self._effects.done(effect.fence, effect.call, outcome)

    async def void(self, effect: _Effect) -> None:
        self._effects.void(effect.fence, effect.call)

    async def call(self, fn: Callable[[str], Any], key: str) -> Any:
        return fn(key)

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  # a blocking caller's own thread

    async def passes(self, side: str) -> None:
        self._faults.at_blocking(f"effect.{side}")


async def _begun(effect: _Effect, hand: _Hand) -> FoundEffect:
    """The record after `begin`.

    Raises:
        GraphFailed: the task will have another name in the next attempt.
    """
    try:
        return await _safely(hand, lambda: hand.begin(effect))
    except NotFound as error:
        raise GraphFailed(
            f"effect '{effect.key}' of node '{effect.task.node}' cannot be recorded: "
            "a graph around its own was compiled with checkpointer=False, so nothing "
            "tells its tasks of one attempt from those of the next; leave checkpointer "
            "out there"
        ) from error


async def _safely(hand: _Hand, step: Callable[[], Awaitable[T]]) -> T:
    """Takes a step of a record, and takes it again if its answer is lost."""
    await hand.passes("before")
    taken = await _repeatedly(hand, step)
    await hand.passes("after")
    return taken


async def _repeatedly(hand: _Hand, step: Callable[[], Awaitable[T]]) -> T:
    for seconds in _PAUSES_SECONDS:
        try:
            return await step()
        except (Unavailable, NotFound):
            await hand.pause(seconds)
    return await step()


def _without_loop(course: Coroutine[Any, Any, T]) -> T:
    """Runs what never suspends, on this thread."""
    try:
        course.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise InvariantViolated("a blocking effect has suspended")
