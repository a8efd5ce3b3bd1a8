"""A factory is called as its signature asks and left as it must be."""

import asyncio
import re
import sys
from textwrap import dedent

import pytest
from structlog.testing import capture_logs

from tests.fixtures.graph_projects import BUILDER, Project, a_project, answer
from threadmill.engine.graph_factories import GraphUse
from threadmill.engine.graphs import load_graphs
from threadmill.errors import GraphFailed, GraphLoadFailed

pytestmark = pytest.mark.langgraph

project = pytest.fixture(a_project)


ONCE = {
    "sync": """
        def graph():
            calls.append(1)
            return build()
        """,
    "sync that compiles": """
        def graph():
            calls.append(1)
            return build().compile()
        """,
    "async": """
        async def graph():
            calls.append(1)
            return build()
        """,
    "returns a coroutine": """
        async def make():
            calls.append(1)
            return build()
        graph = lambda: make()
        """,
    "optional parameter": """
        def graph(debug=False):
            calls.append(1)
            return build()
        """,
    "callable object": """
        class Make:
            async def __call__(self):
                calls.append(1)
                return build()
        graph = Make()
        """,
}
PER_USE = {
    "config": """
        def graph(config):
            calls.append(1)
            return build()
        """,
    "async config": """
        async def graph(config):
            calls.append(1)
            return build()
        """,
    "runtime": """
        def graph(runtime):
            calls.append(1)
            return build()
        """,
    "context manager": """
        @contextlib.contextmanager
        def graph():
            calls.append(1)
            yield build()
        """,
    "async context manager": """
        @contextlib.asynccontextmanager
        async def graph():
            calls.append(1)
            yield build()
        """,
    "async generator": """
        async def graph(config):
            calls.append(1)
            yield build()
        """,
}


@pytest.mark.parametrize("kind", ONCE | PER_USE)
async def test_a_factory_is_called_as_often_as_its_signature_says(
    project: Project, kind: str
) -> None:
    graph = project.one("calls = []\n" + dedent((ONCE | PER_USE)[kind]))
    for _ in range(3):
        assert await answer(graph) == "graph"
    assert len(sys.modules["agent"].calls) == (1 if kind in ONCE else 3)
    assert graph.per_use == (kind in PER_USE)


@pytest.mark.parametrize(
    "signature",
    [
        "config",
        "anything",
        "config: RunnableConfig",
        "cfg: 'RunnableConfig'",
        "cfg: RunnableConfig | None = None",
        "cfg: dict",
        "*, config",
        "config, /",
        "runtime: ServerRuntime, config: RunnableConfig",
    ],
)
async def test_the_config_of_the_run_reaches_the_factory(
    project: Project, signature: str
) -> None:
    parameter = re.findall(r"\w+", signature)
    name = "config" if "config" in parameter else parameter[0]
    graph = project.one(
        "from langchain_core.runnables import RunnableConfig\n"
        "from langgraph_sdk.runtime import ServerRuntime\n"
        f"def graph({signature}):\n"
        f"    return build({name}['configurable']['name'])"
    )
    for text in ("one", "two"):
        assert await answer(graph, config={"configurable": {"name": text}}) == text


async def test_annotations_that_do_not_exist_at_run_time_leave_the_names(
    project: Project,
) -> None:
    project.file(
        "agent.py",
        "from __future__ import annotations\n"
        + dedent(BUILDER)
        + "def graph(config: Missing, runtime: Missing = None):\n"
        "    return build(f'{config[\"x\"]} {runtime.access_context}')",
        builder=False,
    )
    graph = project.load(agent="./agent.py:graph").get("agent")
    assert await answer(graph, config={"x": 1}) == "1 threads.create_run"


async def test_the_runtime_tells_why_and_gives_the_context_of_a_run(
    project: Project,
) -> None:
    graph = project.one(
        """
        import dataclasses
        from langgraph_sdk.runtime import ServerRuntime

        @dataclasses.dataclass
        class Context:
            model: str

        def graph(runtime: ServerRuntime[Context]):
            running = runtime.execution_runtime
            return build(running.context.model if running else runtime.access_context)
        """
    )
    assert await answer(graph, context={"model": "big"}) == "big"
    async with graph.open(GraphUse(access="threads.read")) as compiled:
        assert compiled.invoke({"name": ""}) == {"name": "threads.read"}


@pytest.mark.parametrize("signature", ["state: State", "a, b", "config, other"])
def test_a_parameter_that_nobody_can_fill_is_refused_at_once(
    project: Project, signature: str
) -> None:
    problem = project.problem(f"def graph({signature}):\n    return build()")
    assert "which nobody can fill; a function that returns a graph takes" in problem


async def test_an_async_factory_is_built_at_start_on_the_serving_loop(
    project: Project,
) -> None:
    project.file(
        "agent.py",
        """
        import asyncio
        async def graph():
            return build(str(id(asyncio.get_running_loop())))
        async def broken():
            raise ValueError("no tools")
        """,
    )
    catalogue = project.load(agent="./agent.py:graph", bad="./agent.py:broken")
    graph = catalogue.get("agent")
    built = [graph.graph is not None]
    with capture_logs():
        errors = await catalogue.start()
    built.append(graph.graph is not None)
    assert built == [False, True]
    assert await answer(graph) == str(id(asyncio.get_running_loop()))
    (error,) = errors
    assert "ValueError: no tools (agent.py, line " in str(error)


async def test_simultaneous_first_uses_build_once(project: Project) -> None:
    graph = project.one(
        """
        import asyncio
        calls = []
        async def graph():
            calls.append(1)
            await asyncio.sleep(0)
            return build()
        """
    )
    await asyncio.gather(*(answer(graph) for _ in range(5)))
    assert len(sys.modules["agent"].calls) == 1


async def test_an_async_factory_that_failed_is_tried_again(project: Project) -> None:
    graph = project.one(
        """
        calls = []
        async def graph():
            calls.append(1)
            if len(calls) == 1:
                raise ConnectionError("tools are down")
            return build()
        """
    )
    with capture_logs(), pytest.raises(GraphLoadFailed, match="tools are down"):
        await answer(graph)
    assert await answer(graph) == "graph"


async def test_a_factory_that_hangs_is_given_up(project: Project) -> None:
    project.file(
        "agent.py",
        "import asyncio\nasync def graph(config):\n    await asyncio.Event().wait()",
    )
    config = project.config({"agent": "./agent.py:graph"})
    graph = load_graphs(config, factory_timeout_seconds=0.01).get("agent")
    with capture_logs(), pytest.raises(GraphLoadFailed) as caught:
        await answer(graph)
    assert "its factory took more than 0.01 s" in str(caught.value)


async def test_a_factory_that_fails_names_its_line_and_logs_its_traceback(
    project: Project,
) -> None:
    graph = project.one("def graph(config):\n    return config['missing']")
    with capture_logs() as logs, pytest.raises(GraphLoadFailed) as caught:
        await answer(graph)
    line = len(dedent(BUILDER).splitlines()) + 2
    assert f"KeyError: 'missing' (agent.py, line {line})" in str(caught.value)
    (log,) = [log for log in logs if log["event"] == "graph.load_failed"]
    assert log["traceback"].startswith("Traceback")
    assert "return config['missing']" in log["traceback"]


async def test_a_factory_that_returns_no_graph_is_refused(project: Project) -> None:
    graph = project.one("def graph(config):\n    return {'nodes': []}")
    with capture_logs(), pytest.raises(GraphLoadFailed) as caught:
        await answer(graph)
    assert (
        "./agent.py:graph gives a dict; it must be a StateGraph, a compiled graph, an"
        " @entrypoint, or a function that returns one"
    ) in str(caught.value)


async def test_an_async_function_that_gives_a_context_manager_is_explained(
    project: Project,
) -> None:
    graph = project.one(
        """
        async def graph():
            return contextlib.nullcontext(build())
        """
    )
    with capture_logs(), pytest.raises(GraphLoadFailed) as caught:
        await answer(graph)
    assert "decorate the function with @contextlib.asynccontextmanager" in str(
        caught.value
    )


LEAVING = """
    log = []
    @contextlib.asynccontextmanager
    async def graph(config):
        log.append("enter")
        try:
            yield build()
        finally:
            log.append("leave")
"""


@pytest.mark.parametrize("error", [None, ValueError("x"), asyncio.CancelledError()])
async def test_a_context_manager_is_left_however_the_use_ends(
    project: Project, error: BaseException | None
) -> None:
    graph = project.one(LEAVING)
    raised: BaseException | None = None
    try:
        async with graph.open(GraphUse(access="threads.read")):
            if error is not None:
                raise error
    except (ValueError, asyncio.CancelledError) as caught:
        raised = caught
    assert raised is error
    assert sys.modules["agent"].log == ["enter", "leave"]


@pytest.mark.parametrize(
    "reaction", ["pass", "raise RuntimeError('clean-up')", "return"]
)
async def test_a_factory_cannot_change_how_the_use_ended(
    project: Project, reaction: str
) -> None:
    graph = project.one(
        f"""
        @contextlib.asynccontextmanager
        async def graph(config):
            try:
                yield build()
            except Exception:
                {reaction}
        """
    )
    with capture_logs() as logs, pytest.raises(ValueError, match="the body's own"):
        async with graph.open(GraphUse(access="threads.read")):
            raise ValueError("the body's own")
    cleaned_up = [log for log in logs if log["event"] == "graph.clean_up_failed"]
    assert len(cleaned_up) == ("RuntimeError" in reaction)


@pytest.mark.parametrize(
    "failure", ["RuntimeError('clean-up')", "asyncio.CancelledError()", "SystemExit(1)"]
)
async def test_a_clean_up_that_fails_after_a_good_use_is_logged(
    project: Project, failure: str
) -> None:
    graph = project.one(
        f"""
        import asyncio
        @contextlib.asynccontextmanager
        async def graph(config):
            yield build()
            raise {failure}
        """
    )
    with capture_logs() as logs:
        assert await answer(graph) == "graph"
    (log,) = logs
    assert (log["event"], log["graph_id"]) == ("graph.clean_up_failed", "agent")


async def test_a_context_manager_that_gives_no_graph_is_left(project: Project) -> None:
    graph = project.one(LEAVING.replace("yield build()", "yield 1"))
    with capture_logs(), pytest.raises(GraphLoadFailed, match="gives a int"):
        await answer(graph)
    assert sys.modules["agent"].log == ["enter", "leave"]


async def test_a_cancellation_by_the_factorys_own_scope_is_a_failure_of_the_graph(
    project: Project,
) -> None:
    graph = project.one(
        """
        import asyncio
        @contextlib.asynccontextmanager
        async def graph(config):
            async def connection():
                raise ConnectionError("tools went away")
            async with asyncio.TaskGroup() as group:
                group.create_task(connection())
                yield build()
        """
    )
    with capture_logs(), pytest.raises(GraphFailed, match="cancelled the use"):
        async with graph.open(GraphUse(access="threads.read")):
            await asyncio.Event().wait()


async def test_a_cancellation_from_outside_stays_one(project: Project) -> None:
    graph = project.one(
        LEAVING.replace("finally:", "except asyncio.CancelledError:").replace(
            "log = []", "import asyncio\n    log = []"
        )
    )
    entered = asyncio.Event()

    async def use() -> None:
        async with graph.open(GraphUse(access="threads.read")):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sys.modules["agent"].log == ["enter", "leave"]
