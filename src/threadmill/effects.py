"""What nodes do outside of the graph, done once: the names that nodes import.

A node may run more than once: its worker dies, and another one begins it again. What it
has written counts once; a mail that it has sent is sent. Two things help. Its
idempotency key is the same in every attempt, so a receiver that knows such keys can
tell a repetition. And an effect records what it is about to do and what came of it, so
that a later attempt is given the outcome instead of doing it again::

    async def pay(state):
        receipt = await threadmill.effect(
            "charge", lambda key: bank.charge(state["amount"], idempotency_key=key)
        )
        return {"receipt": receipt}

These work inside nodes, tasks and tools that Threadmill runs, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from langgraph.config import get_config

from threadmill.engine.activation.identity import TaskIdentity, identity_of
from threadmill.engine.effects import BOOK_KEY, EffectBook
from threadmill.errors import EffectNotDone, EffectUnknown, SetupError

__all__ = [
    "EffectNotDone",
    "EffectUnknown",
    "effect",
    "effect_sync",
    "idempotency_key",
]

T = TypeVar("T")
OnUnknown = Literal["fail", "retry", "ask"]


def idempotency_key() -> str:
    """A UUID that is the same in every attempt of the running task.

    Every task of every superstep has another one: each `Send`, each call of a `@task`,
    each turn of a loop. Another thread's or another tenant's never is the same. A run
    that forks from an older checkpoint repeats its tasks under their old keys.

    Raises:
        SetupError: called outside of a node that Threadmill runs.
    """
    book, task = _here()
    return book.idempotency_key(task)


async def effect(
    key: str,
    fn: Callable[[str], Awaitable[T]],
    *,
    on_unknown: OnUnknown = "fail",
) -> T:
    """Calls `fn` once, and returns its recorded outcome ever after; in async nodes.

    The intent is durable before `fn` is called, the outcome before this returns. If the
    task runs again, the recorded outcome is returned and `fn` is not called. An intent
    without outcome means that nobody knows: the process died during the call, the node
    was cancelled or timed out, or `fn` raised.

    Args:
        key: names the effect; unique within the task, at most 512 characters, the same
            in every attempt.
        fn: does it. Is given the effect's own idempotency key, a UUID that is the same
            for each call. What it returns must be storable as a value of the state is,
            and comes back as LangGraph's serializer reads it, also the first time (a
            tuple is a list then). If it knows that nothing has happened, it raises
            `EffectNotDone`.
        on_unknown: what to do about an intent without outcome. `fail` raises
            `EffectUnknown`; `retry` calls `fn` again, for receivers that know
            idempotency keys, or effects that do no harm twice; `ask` interrupts the run
            and does what a human answers: `{"retry": true}` or `{"outcome": ...}`.

    Raises:
        EffectUnknown: it may have happened already, and `on_unknown` is `fail`.
        EffectNotDone: `fn` has raised it. The next attempt calls again.
        StateUnserializable: `fn` was called, and what it returned cannot be stored.
        InvalidRequest: a bad argument, or the same key is under way in this task.
        GraphFailed: a graph around this one keeps no checkpoints.
        SetupError: called outside of a node that Threadmill runs.
        LeaseLost: another worker has the task now; let it pass.
        StoreUnavailable: the database does not answer; let it pass.
        Exception: whatever else `fn` raises; its outcome is unknown from then on, also
            for LangGraph's RetryPolicy.
    """
    book, task = _here()
    outcome: T = await book.perform(task, key, fn, on_unknown)
    return outcome


def effect_sync(
    key: str, fn: Callable[[str], T], *, on_unknown: OnUnknown = "fail"
) -> T:
    """`effect` for nodes that block: `fn` is called on this thread.

    See `effect` for arguments, errors and promises. In an async node it would block
    the worker's event loop.
    """
    book, task = _here()
    outcome: T = book.perform_blocking(task, key, fn, on_unknown)
    return outcome


def _here() -> tuple[EffectBook, TaskIdentity]:
    try:
        config: Any = get_config()
    except RuntimeError:
        config = {}
    book = (config.get("configurable") or {}).get(BOOK_KEY)
    task = identity_of(config)
    if not isinstance(book, EffectBook) or task is None:
        msg = (
            "threadmill's effects and idempotency keys work inside of nodes that "
            "Threadmill runs (`threadmill dev`, `worker`); a plain LangGraph program "
            "has no fence that could keep a second process from calling too"
        )
        raise SetupError(msg)
    return book, task
