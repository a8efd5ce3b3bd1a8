"""Calls functions that return a graph, with the arguments they ask for.

Why: langgraph.json may name a function in place of a graph: sync or async, a plain one
or a context manager, taking nothing, the run's config, the server's runtime, or both.

Promises: an argument is filled by its type, else by its name; a parameter that has a
default and neither is left alone; a required one that cannot be filled is refused when
the graph is loaded, not when it is used.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from langchain_core.runnables import RunnableConfig
from langgraph.store.base import BaseStore
from langgraph_sdk.auth.types import BaseUser
from langgraph_sdk.runtime import (
    AccessContext,
    ServerRuntime,
    _ExecutionRuntime,
    _ReadRuntime,
)
from pydantic import BaseModel

Role = Literal["config", "runtime"]

_RUNTIMES = (ServerRuntime, _ExecutionRuntime, _ReadRuntime)
_NAMED_ONLY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphUse:
    """Why a graph is opened, and what its factory is told about it.

    `access` is one of LangGraph's reasons: threads.create_run (the graph runs),
    threads.update, threads.read, assistants.read. Only a running graph is given
    `context`. This version has no store: `store` stays None.
    """

    access: AccessContext
    config: Mapping[str, Any] = field(default_factory=dict)
    context: object = None
    user: BaseUser | None = None
    store: BaseStore | None = None


@dataclass(frozen=True, slots=True)
class Factory:
    """A function of the user's that returns a graph, and how to call it.

    `per_use` says whether each use calls it; see `LoadedGraph.open`.
    """

    function: Callable[..., object]
    parameters: tuple[tuple[inspect.Parameter, Role, object], ...]
    per_use: bool

    @classmethod
    def of(cls, function: Callable[..., object]) -> Factory:
        """Looks at the signature of `function`.

        Raises:
            TypeError: it has a required parameter that is neither config nor runtime.
        """
        if inspect.isasyncgenfunction(function):
            function = asynccontextmanager(function)
        elif inspect.isgeneratorfunction(function):
            function = contextmanager(function)
        parameters = tuple(_filled(function))
        return cls(function, parameters, per_use=bool(parameters))

    def resolve(self) -> object:
        """The graph itself if it can be had at once and for all, else a factory.

        Calls a sync function without parameters. What it then returns decides: a
        context manager is entered per use, a coroutine belongs to the event loop.
        """
        if self.per_use or _is_async(self.function):
            return self
        value = self.function()
        if _is_context_manager(value):
            return dataclasses.replace(self, per_use=True)
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            return self
        return value

    async def produce(self, use: GraphUse, stack: AsyncExitStack | None) -> object:
        """Calls the function and waits for its graph; `stack` keeps what to leave.

        Raises:
            TypeError: it gives a context manager and there is no `stack` to keep it.
        """
        value = self.function(*self._arguments(use), **self._keywords(use))
        if inspect.isawaitable(value):
            value = await cast("Awaitable[object]", value)
        if not _is_context_manager(value):
            return value
        if stack is None:
            raise TypeError(
                "an async function gives a context manager; decorate the function with"
                " @contextlib.asynccontextmanager and yield the graph"
            )
        if isinstance(value, AbstractAsyncContextManager):
            return await stack.enter_async_context(value)
        return stack.enter_context(cast("AbstractContextManager[object]", value))

    def _arguments(self, use: GraphUse) -> list[object]:
        return [
            _argument(role, hint, use)
            for parameter, role, hint in self.parameters
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        ]

    def _keywords(self, use: GraphUse) -> dict[str, object]:
        return {
            parameter.name: _argument(role, hint, use)
            for parameter, role, hint in self.parameters
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }


def _filled(
    function: Callable[..., object],
) -> Iterator[tuple[inspect.Parameter, Role, object]]:
    """The parameters to fill, with the role of each."""
    signature = inspect.signature(function)
    hints = _hints(function)
    required = [p for p in signature.parameters.values() if _is_required(p)]
    for parameter in signature.parameters.values():
        hint = hints.get(parameter.name, parameter.annotation)
        role = _role(parameter, hint)
        if role is None and required == [parameter] and _may_be_config(hint):
            role = "config"
        if role is not None:
            yield parameter, role, hint
        elif _is_required(parameter):
            name = getattr(function, "__name__", type(function).__name__)
            raise TypeError(
                f"{name}() takes '{parameter.name}', which nobody can fill; a function"
                " that returns a graph takes nothing, config: RunnableConfig, or"
                " runtime: ServerRuntime"
            )


def _is_required(parameter: inspect.Parameter) -> bool:
    empty = parameter.default is inspect.Parameter.empty
    return empty and parameter.kind not in _NAMED_ONLY


def _role(parameter: inspect.Parameter, hint: object) -> Role | None:
    if parameter.kind in _NAMED_ONLY:
        return None
    if _mentions(hint, (RunnableConfig,)):
        return "config"
    if _mentions(hint, _RUNTIMES):
        return "runtime"
    if parameter.name in {"config", "runtime"}:
        return cast("Role", parameter.name)
    return None


def _may_be_config(hint: object) -> bool:
    """Whether a lone parameter of any name may be given the config."""
    return hint in {inspect.Parameter.empty, Any, dict} or get_origin(hint) is dict


def _mentions(hint: object, types: tuple[object, ...]) -> bool:
    """Whether a hint is one of `types`, with arguments or in a union or not."""
    if any(hint is type_ or get_origin(hint) is type_ for type_ in types):
        return True
    return any(_mentions(part, types) for part in get_args(hint))


def _hints(function: Callable[..., object]) -> dict[str, Any]:
    """The resolved annotations; empty if one names what does not exist at run time."""
    while isinstance(function, partial):
        function = function.func
    if not inspect.isroutine(function) and not inspect.isclass(function):
        function = type(function).__call__
    elif inspect.isclass(function):
        function = function.__init__
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - evaluates the user's annotations, names decide then
        return {}


def _argument(role: Role, hint: object, use: GraphUse) -> object:
    if role == "config":
        return dict(use.config)
    # The SDK types `store` as present; a server without one has nothing to give.
    store = cast("BaseStore", use.store)
    if use.access != "threads.create_run":
        return _ReadRuntime(access_context=use.access, user=use.user, store=store)
    return _ExecutionRuntime(
        access_context=use.access,
        user=use.user,
        store=store,
        context=_typed(use.context, hint),
    )


def _typed(context: object, hint: object) -> object:
    """The context as the class that `ServerRuntime[Class]` asks for."""
    for type_ in get_args(hint):
        if not isinstance(context, Mapping) or not inspect.isclass(type_):
            continue
        if dataclasses.is_dataclass(type_) or issubclass(type_, BaseModel):
            return type_(**context)
    return context


def _is_async(function: Callable[..., object]) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004 - its kind, not its presence
    )


def _is_context_manager(value: object) -> bool:
    return isinstance(value, AbstractAsyncContextManager | AbstractContextManager)
