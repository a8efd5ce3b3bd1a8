"""Loads the user's graphs and hands them out, ready to run under our persistence.

Why: everything between langgraph.json and a graph that an activation may enter lives
here: importing, compiling, calling factories, taking away foreign checkpointers.

Promises:

* One bad graph never hides another: it is logged once with its traceback, and asking
  for it raises `GraphLoadFailed`, which names the cause.
* A graph that leaves this module has no checkpointer of its own, whatever it was
  compiled with; the user's object is not changed, a copy is handed out.
* A factory is called as often as its signature says, see `LoadedGraph.open`.

New code is served by a new process: nothing is reloaded here.
"""

from __future__ import annotations

import asyncio
import copy
import sysconfig
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType, TracebackType
from uuid import UUID, uuid5

import structlog
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from threadmill.config import GraphPolicy, GraphSpec, LangGraphConfig
from threadmill.domain.retention import RetentionRules, TtlDefaults
from threadmill.engine.graph_factories import Factory, GraphUse
from threadmill.engine.graph_modules import ModuleLoader
from threadmill.engine.graph_schemas import CompiledGraph, GraphSchemas, derive_schemas
from threadmill.errors import GraphFailed, GraphLoadFailed, NotFound

_ASSISTANTS = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
# What a factory without parameters is told of.
_BY_ITSELF = GraphUse(access="assistants.read")
_STDLIB = sysconfig.get_path("stdlib")
# Parts of the file names whose frames come before the user's code.
_MACHINERY = ("<frozen importlib", str(Path(__file__).parent), "importlib/__init__.py")


def default_assistant_id(graph_id: str) -> UUID:
    """The id of the assistant that every graph has from the start."""
    return uuid5(_ASSISTANTS, graph_id)


@dataclass(frozen=True, slots=True)
class GraphFailure:
    """Why a graph is not served; `traceback` begins at the user's own code."""

    graph_id: str
    target: str
    kind: str
    cause: str
    traceback: str

    def error(self) -> GraphLoadFailed:
        """The error for whoever asks for the graph."""
        return GraphLoadFailed(
            f"graph '{self.graph_id}' ({self.target}) does not load: {self.cause};"
            " mend it and restart (the log has the whole traceback)",
            shown=f"graph '{self.graph_id}' does not load ({self.kind}); the server's"
            " log has the cause",
        )


class LoadedGraph:
    """One graph of langgraph.json that imported without error.

    `per_use` says whether each `open` builds a new graph. `graph` is the graph itself,
    None while it is built per use or not built yet. Belongs to one event loop.
    """

    def __init__(
        self,
        spec: GraphSpec,
        source: object,
        *,
        factory_timeout_seconds: float = 60,
    ) -> None:
        self.id = spec.id
        self.target = spec.target
        self.description = spec.description
        self.policy = spec.policy
        self.assistant_id = default_assistant_id(spec.id)
        self._factory = source if isinstance(source, Factory) else None
        self._timeout_seconds = factory_timeout_seconds
        self._building = asyncio.Lock()
        self._schemas: GraphSchemas | None = None
        self._warned = False
        self.graph: CompiledGraph | None = None
        if self._factory is None:
            self.graph = self._owned(source)

    def __repr__(self) -> str:
        return f"<LoadedGraph {self.id!r} from {self.target!r}>"

    @property
    def per_use(self) -> bool:
        """Whether each `open` calls the factory."""
        return self._factory is not None and self._factory.per_use

    @asynccontextmanager
    async def open(self, use: GraphUse) -> AsyncIterator[CompiledGraph]:
        """Hands out the graph for one use: a run's activation, a read, a drawing.

        A graph object, and the result of a factory without parameters, is one object
        shared by all uses. A factory that takes the config or the runtime is called
        for each use. A factory that is a context manager is entered for each use, with
        or without parameters, and left when the use ends.

        The factory runs on this event loop and is given `factory_timeout_seconds`.
        What the factory does while it is left, raising or swallowing, never changes how
        the body ended; it is logged. The one exception: when a scope of the factory's
        own cancelled the body, the use ends with `GraphFailed`.

        Args:
            use: why the graph is opened and what its factory is given.

        Raises:
            GraphLoadFailed: the factory raised, took too long or returned no graph.
        """
        if self._factory is None or not self._factory.per_use:
            yield self.graph if self.graph is not None else await self.build()
            return
        stack = AsyncExitStack()
        try:
            yield await self._build(self._factory, use, stack)
        except BaseException as error:
            await self._leave(stack, error)
            raise
        await self._leave(stack, None)

    async def schemas(self) -> GraphSchemas:
        """The JSON schemas, derived on first demand; per use for a per-use graph.

        Raises:
            GraphLoadFailed: as `open`.
        """
        if self._schemas is not None:
            return self._schemas
        async with self.open(GraphUse(access="assistants.read")) as graph:
            schemas = derive_schemas(graph)
        if not self.per_use:
            self._schemas = schemas
        return schemas

    async def build(self) -> CompiledGraph:
        """Calls an async factory without parameters; after a failure, calls it again.

        Cancelled in the middle, it leaves the next caller to begin anew.

        Raises:
            GraphLoadFailed: as `open`.
        """
        async with self._building:
            if self.graph is None:
                assert self._factory is not None  # noqa: S101 - or graph would be set
                self.graph = await self._build(self._factory, _BY_ITSELF, None)
            return self.graph

    async def _build(
        self, factory: Factory, use: GraphUse, stack: AsyncExitStack | None
    ) -> CompiledGraph:
        deadline = asyncio.timeout(self._timeout_seconds)
        try:
            async with deadline:
                return self._owned(await factory.produce(use, stack))
        except (Exception, SystemExit) as error:
            cause = None
            if deadline.expired():
                cause = f"its factory took more than {self._timeout_seconds:g} s"
            raise _report(self, error, cause).error() from error

    async def _leave(self, stack: AsyncExitStack, error: BaseException | None) -> None:
        """Leaves what a factory entered; only its own cancellation surfaces."""
        took_over = False
        try:
            kind = None if error is None else type(error)
            trace = None if error is None else error.__traceback__
            took_over = bool(await stack.__aexit__(kind, error, trace))
        # Whatever the user's code raises must not replace how the body ended.
        except (Exception, SystemExit, asyncio.CancelledError) as raised:
            if isinstance(raised, asyncio.CancelledError) and _is_asked_to_stop():
                raise
            took_over = raised is not error
            if took_over:
                structlog.get_logger(__name__).exception(
                    "graph.clean_up_failed", graph_id=self.id, target=self.target
                )
        # A cancellation that the factory's exit took back was its own, such as that of
        # a task group whose child died: nobody outside asked this task to stop.
        cancelled = isinstance(error, asyncio.CancelledError)
        if took_over and cancelled and not _is_asked_to_stop():
            raise GraphFailed(
                f"graph '{self.id}' ({self.target}): its factory cancelled the use"
            ) from error

    def _owned(self, value: object) -> CompiledGraph:
        """The graph in `value`, compiled, without a checkpointer of its own."""
        if isinstance(value, StateGraph):
            return value.compile()
        if not isinstance(value, Pregel):
            raise TypeError(
                f"{self.target} gives a {type(value).__name__}; it must be a"
                " StateGraph, a compiled graph, an @entrypoint, or a function that"
                " returns one"
            )
        if value.checkpointer is None:
            return value
        self._warn_of_checkpointer(value.checkpointer)
        # Not value.copy(): it loses what compile() sets after construction.
        graph = copy.copy(value)
        graph.checkpointer = None
        return graph

    def _warn_of_checkpointer(self, checkpointer: object) -> None:
        if self._warned:
            return
        self._warned = True
        name = (
            f"checkpointer={checkpointer}"
            if isinstance(checkpointer, bool)
            else type(checkpointer).__name__
        )
        structlog.get_logger(__name__).warning(
            "graph.checkpointer_replaced",
            graph_id=self.id,
            checkpointer=name,
            problem=f"graph '{self.id}' is compiled with {name}, which is not used:"
            " threadmill keeps the state in its database",
            remedy="compile without a checkpointer",
        )


class GraphCatalogue:
    """The graphs of one langgraph.json, in its order, and those that failed.

    `ttl` is what that file says of how long threads are kept, `assistant_labels` what
    it says of single assistants.
    """

    def __init__(
        self,
        loaded: Sequence[LoadedGraph],
        failures: Sequence[GraphFailure] = (),
        *,
        ttl: TtlDefaults = TtlDefaults(),  # noqa: B008 - frozen
        assistant_labels: Mapping[UUID, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.ttl = ttl
        self._assistant_labels = assistant_labels
        self._loaded = {graph.id: graph for graph in loaded}
        self._failures = {failure.graph_id: failure for failure in failures}
        self._by_assistant = {graph.assistant_id: graph for graph in loaded}

    def __iter__(self) -> Iterator[LoadedGraph]:
        """Iterates over the graphs that are served."""
        return iter(self._loaded.values())

    def __len__(self) -> int:
        return len(self._loaded)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the graphs that are served: what a worker may claim."""
        return tuple(self._loaded)

    @property
    def failures(self) -> Mapping[str, GraphFailure]:
        """The graphs that are not served, by id."""
        return MappingProxyType(self._failures)

    def get(self, graph_id: str) -> LoadedGraph:
        """The graph with this id.

        Raises:
            GraphLoadFailed: it is in langgraph.json and does not load.
            NotFound: it is not in langgraph.json; the message lists those that are.
        """
        if graph_id in self._failures:
            raise self._failures[graph_id].error()
        if graph_id not in self._loaded:
            known = ", ".join([*self._loaded, *self._failures]) or "none"
            raise NotFound(f"no graph '{graph_id}'; known graphs: {known}")
        return self._loaded[graph_id]

    def policy(self, graph_id: str) -> GraphPolicy:
        """What langgraph.json says about this graph's runs, also if it is not there."""
        graph = self._loaded.get(graph_id)
        return GraphPolicy() if graph is None else graph.policy

    def labels(self, graph_id: str, assistant_id: UUID) -> Sequence[str]:
        """What a worker must have to take anything of an assistant's runs."""
        own = self._assistant_labels.get(assistant_id, ())
        return sorted({*self.policy(graph_id).labels, *own})

    @property
    def run_labels(self) -> Sequence[Sequence[str]]:
        """What runs of these graphs and of their assistants may need."""
        return [*(g.policy.labels for g in self), *self._assistant_labels.values()]

    @property
    def retention(self) -> RetentionRules:
        """How long threads are kept, as far as this file says."""
        graphs = {graph.id: graph.policy.ttl for graph in self}
        return RetentionRules(defaults=self.ttl, graphs=graphs)

    @property
    def indexed(self) -> Mapping[str, Sequence[str]]:
        """The paths that each graph's history is indexed by, if there are any."""
        return {g.id: g.policy.history for g in self if g.policy.history}

    @property
    def places(self) -> Mapping[str, str]:
        """Where what checkpoints hold lies, for the graphs that it is said for."""
        return {g.id: g.policy.checkpoints for g in self if g.policy.checkpoints}

    def by_assistant(self, assistant_id: UUID) -> LoadedGraph | None:
        """The graph whose default assistant this is, if it is one."""
        return self._by_assistant.get(assistant_id)

    async def start(self) -> list[GraphLoadFailed]:
        """Builds the graphs of async factories without parameters, on this event loop.

        Optional: the first use builds them too. A factory that fails is logged, and
        tried again on the next use.

        Returns:
            The errors of the factories that failed now.
        """
        errors = []
        for graph in self:
            try:
                if graph.graph is None and not graph.per_use:
                    await graph.build()
            except GraphLoadFailed as error:
                errors.append(error)
        return errors


def load_graphs(
    config: LangGraphConfig, *, factory_timeout_seconds: float = 60
) -> GraphCatalogue:
    """Imports every graph of `config`, and never raises for one that fails.

    It blocks as long as the users' modules do: call it before the event loop starts,
    or in a thread. It runs their code, extends `sys.path` for the life of the process,
    and calls sync factories without parameters.

    Args:
        config: the checked langgraph.json.
        factory_timeout_seconds: how long one call of an async factory may take.
    """
    modules = ModuleLoader(config)
    modules.extend_import_path()
    loaded: list[LoadedGraph] = []
    failures: list[GraphFailure] = []
    for spec in config.graphs:
        try:
            loaded.append(_load(modules, spec, factory_timeout_seconds))
        # Module code may raise anything, and scripts call exit().
        except (Exception, SystemExit) as error:  # noqa: BLE001
            failures.append(_report(spec, error))
    return GraphCatalogue(
        loaded, failures, ttl=config.ttl, assistant_labels=config.assistant_labels
    )


def _load(
    modules: ModuleLoader, spec: GraphSpec, factory_timeout_seconds: float
) -> LoadedGraph:
    module = modules.load(spec)
    source = _attribute(module, spec)
    if callable(source) and not isinstance(source, StateGraph | Pregel):
        source = Factory.of(source).resolve()
    return LoadedGraph(spec, source, factory_timeout_seconds=factory_timeout_seconds)


def _report(
    graph: GraphSpec | LoadedGraph, error: BaseException, cause: str | None = None
) -> GraphFailure:
    """Logs a failure, once, and describes it for those who ask later."""
    steps = traceback.format_exception(error.with_traceback(_users_part(error)))
    failure = GraphFailure(
        graph.id,
        graph.target,
        type(error).__name__,
        cause or _cause(error),
        "".join(steps),
    )
    structlog.get_logger(__name__).error(
        "graph.load_failed",
        graph_id=failure.graph_id,
        target=failure.target,
        cause=failure.cause,
        traceback=failure.traceback,
    )
    return failure


def _is_asked_to_stop() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _attribute(module: ModuleType, spec: GraphSpec) -> object:
    value: object = module
    for name in spec.attribute.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            graphs = [n for n, v in vars(module).items() if _is_graph(v)]
            hint = f"graphs in it: {', '.join(graphs)}" if graphs else "no graph in it"
            raise AttributeError(
                f"no '{spec.attribute}' in {spec.file or spec.module} ({hint})"
            ) from None
    return value


def _is_graph(value: object) -> bool:
    return isinstance(value, StateGraph | Pregel)


def _cause(error: BaseException) -> str:
    """The last line of the traceback, where it was raised, and what helps."""
    message = str(error).strip().partition("\n")[0]
    cause = f"{type(error).__name__}: {message}" if message else type(error).__name__
    where = "" if isinstance(error, SyntaxError) else _place(error)
    if isinstance(error, ModuleNotFoundError):
        where += (
            "; install it where threadmill runs, or list its folder in 'dependencies'"
        )
    return cause + where


def _place(error: BaseException) -> str:
    """The innermost line of the user's own code, as " (agent.py, line 3)"."""
    libraries = (*_MACHINERY, "site-packages", "dist-packages", _STDLIB)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in frame.filename for part in libraries):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""


def _users_part(error: BaseException) -> TracebackType | None:
    """The traceback without the import machinery's steps before the user's code."""
    step = error.__traceback__
    while step is not None:
        if not any(part in step.tb_frame.f_code.co_filename for part in _MACHINERY):
            return step
        step = step.tb_next
    return error.__traceback__
