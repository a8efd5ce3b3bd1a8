"""The hook through which LangGraph's runner starts a superstep's tasks.

Passed as ``configurable["__pregel_runner_submit"]``, a private key of LangGraph's. It
starts the tasks that are to run in this process (`Share` decides); the others wait for
their results from elsewhere. A task must not see that its superstep was entered
in a special way, so its config loses the hook and gets the run's own recursion limit
back before it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import copy_context
from typing import Any, Final

from langchain_core.callbacks import BaseCallbackHandler
from langgraph.constants import START

from threadmill.engine.activation.exits import EXITS, enter_node, failure_of
from threadmill.engine.activation.identity import TASK_KEY
from threadmill.engine.activation.places import is_call, place_of
from threadmill.engine.activation.share import Share
from threadmill.faults import Faults

KEY: Final = "__pregel_runner_submit"


class TaskStarter:
    """Starts tasks on the running event loop and keeps hold of them.

    Args:
        recursion_limit: the run's own, for subgraphs.
        max_concurrency: tasks that may run at once (LangGraph's config key).
        on_start: called with a task's id before it is started.
        share: says which tasks run here.
        before_run: awaited before a task runs: what it builds on must be durable.
        finished: what tasks have written that must not run again. LangGraph itself
            gives their results back to all but error handlers.
        handlers: callback handlers of every task. Given to the root they would be
            taken out: LangGraph keeps an outer stream's handlers away from a graph
            that is not its task.
        faults: what tests make happen before and after a node.
    """

    def __init__(
        self,
        *,
        recursion_limit: int,
        max_concurrency: int | None,
        on_start: Callable[[str], None],
        share: Share,
        before_run: Callable[[], Awaitable[None]],
        finished: Mapping[str, Sequence[tuple[str, Any]]],
        handlers: Sequence[BaseCallbackHandler] = (),
        faults: Faults,
    ) -> None:
        self._finished = finished
        self._handlers = handlers
        self._faults = faults
        self._recursion_limit = recursion_limit
        self._max_concurrency = max_concurrency
        self._on_start = on_start
        self._share = share
        self._before_run = before_run
        self._gates: dict[int, asyncio.Semaphore] = {}
        self._running: set[asyncio.Task[Any]] = set()

    def __call__(self) -> Callable[..., asyncio.Future[Any]]:
        """LangGraph calls the hook to get the function that submits."""
        return self.submit

    def submit(
        self,
        fn: Callable[..., Awaitable[Any]],
        *args: Any,
        __name__: str | None = None,  # noqa: A002  # LangGraph's name
        __cancel_on_exit__: bool = False,  # noqa: ARG002  # `Entry` cancels all
        __reraise_on_exit__: bool = True,  # noqa: ARG002  # the runner raises
        __next_tick__: bool = False,  # noqa: ARG002  # always so
        **kwargs: Any,
    ) -> asyncio.Future[Any]:
        """LangGraph's own signature: the first argument after `fn` is the task."""
        self._adapt(args[0])
        self._on_start(args[0].id)
        if args[0].id in self._finished:
            return self._given_back(args[0])
        self._share.gather(args[0])
        task = asyncio.get_running_loop().create_task(
            self._run(fn, args, kwargs), name=__name__, context=copy_context()
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _given_back(self, task: Any) -> asyncio.Future[Any]:
        task.writes.extend(self._finished[task.id])
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def _run(
        self,
        fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        elsewhere = await self._share.admitted(args[0])
        if elsewhere is not None:
            args[0].writes.extend(elsewhere)
            return None
        async with self._gate(args[0]):
            enter_node(args[0].name)
            if args[0].name != START:
                # That one only spreads the input; after a crash it does so again.
                await self._before_run()
            await self._faults.at("node.before")
            try:
                result = await fn(*args, **kwargs)
            except EXITS as error:
                raise failure_of(args[0].name, error) from error
            await self._faults.at("node.after")
            return result

    def _gate(self, task: Any) -> AbstractAsyncContextManager[Any]:
        if not self._max_concurrency:
            return nullcontext()
        # A caller waits for what it calls: they must not queue for the same gate.
        depth = _call_depth(task.path)
        return self._gates.setdefault(depth, asyncio.Semaphore(self._max_concurrency))

    def _adapt(self, task: Any) -> None:
        config = task.config
        config["configurable"].pop(KEY, None)
        config["configurable"][TASK_KEY] = (task.id, place_of(task.path))
        for handler in self._handlers:
            if handler not in config["callbacks"].handlers:
                config["callbacks"].add_handler(handler, inherit=True)
        config["recursion_limit"] = self._recursion_limit

    @property
    def running(self) -> Collection[asyncio.Task[Any]]:
        """Tasks that have not ended yet."""
        return list(self._running)


def _call_depth(path: tuple[Any, ...]) -> int:
    """How many `@task` calls lie between a task and its node."""
    depth = 0
    while is_call(path):
        path, depth = path[1], depth + 1
    return depth
