"""User graphs load from real files and never keep a checkpointer."""

import sys
from typing import TypedDict
from uuid import UUID

import pytest
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from structlog.testing import capture_logs

from tests.fixtures.graph_projects import Project, a_project, answer
from threadmill.config import GraphSpec
from threadmill.engine.graph_factories import GraphUse
from threadmill.engine.graphs import (
    GraphCatalogue,
    LoadedGraph,
    default_assistant_id,
    load_graphs,
)
from threadmill.errors import GraphLoadFailed, NotFound

pytestmark = pytest.mark.langgraph

project = pytest.fixture(a_project)


@pytest.mark.parametrize(
    "source",
    [
        "graph = build()",
        "graph = build().compile()",
        "graph = build().compile().with_config(tags=['x'])",
        "class holder: inner = build()\ngraph = holder.inner",
    ],
)
async def test_a_builder_is_compiled_and_a_compiled_graph_is_taken(
    project: Project, source: str
) -> None:
    graph = project.one(source)
    assert isinstance(graph.graph, CompiledStateGraph)
    assert graph.graph.output_channels == ["name"]
    assert not graph.per_use
    assert await answer(graph) == "graph"


async def test_an_entrypoint_is_a_graph(project: Project) -> None:
    graph = project.one(
        """
        from langgraph.func import entrypoint

        @entrypoint()
        def graph(text: str) -> int:
            return len(text)
        """
    )
    async with graph.open(GraphUse(access="threads.read")) as compiled:
        assert isinstance(compiled, Pregel)
        assert await compiled.ainvoke("four") == 4
    schemas = await graph.schemas()
    assert schemas.input == {"type": "string"}
    assert schemas.output == {"type": "integer"}


async def test_an_attribute_may_be_nested(project: Project) -> None:
    project.file("agent.py", "class Holder:\n    inner = build('nested')")
    catalogue = project.load(agent="./agent.py:Holder.inner")
    assert await answer(catalogue.get("agent")) == "nested"


async def test_a_graph_may_be_named_by_its_module(project: Project) -> None:
    project.file("src/my_agents/__init__.py", "", builder=False)
    project.file("src/my_agents/first.py", "graph = build('by module')")
    catalogue = project.load(agent="my_agents.first:graph")
    assert await answer(catalogue.get("agent")) == "by module"


SAVERS = {
    "InMemorySaver": (
        "from langgraph.checkpoint.memory import InMemorySaver\n"
        "graph = build().compile(checkpointer=InMemorySaver())"
    ),
    "Own": (
        "from langgraph.checkpoint.base import BaseCheckpointSaver\n"
        "class Own(BaseCheckpointSaver): pass\n"
        "graph = build().compile(checkpointer=Own())"
    ),
    "checkpointer=True": "graph = build().compile(checkpointer=True)",
    "checkpointer=False": "graph = build().compile(checkpointer=False)",
}


@pytest.mark.parametrize("saver", SAVERS)
async def test_a_checkpointer_of_the_graphs_own_is_replaced_aloud(
    project: Project, saver: str
) -> None:
    with capture_logs() as logs:
        graph = project.one(SAVERS[saver])
    assert graph.graph is not None
    assert graph.graph.checkpointer is None
    assert await answer(graph) == "graph"
    (log,) = logs
    assert (log["log_level"], log["event"]) == (
        "warning",
        "graph.checkpointer_replaced",
    )
    assert log["problem"] == (
        f"graph 'agent' is compiled with {saver}, which is not used: threadmill keeps"
        " the state in its database"
    )
    assert log["remedy"] == "compile without a checkpointer"


async def test_the_users_own_object_keeps_its_checkpointer_unused(
    project: Project,
) -> None:
    with capture_logs():
        graph = project.one(SAVERS["InMemorySaver"])
    mine = sys.modules["agent"].graph
    assert await answer(graph) == "graph"
    assert list(mine.checkpointer.list(None)) == []
    assert graph.graph is not mine
    assert vars(mine).keys() == vars(graph.graph).keys()


async def test_a_factorys_checkpointer_is_replaced_each_time_and_reported_once(
    project: Project,
) -> None:
    source = SAVERS["InMemorySaver"].replace("graph =", "return")
    saver, compiled = source.split("\n")
    graph = project.one(f"{saver}\ndef graph(config):\n    {compiled}")
    with capture_logs() as logs:
        for _ in range(3):
            async with graph.open(GraphUse(access="threads.read")) as opened:
                assert opened.checkpointer is None
    assert [log["event"] for log in logs] == ["graph.checkpointer_replaced"]


async def test_an_entrypoints_checkpointer_is_replaced_too(project: Project) -> None:
    with capture_logs() as logs:
        graph = project.one(
            """
            from langgraph.checkpoint.memory import InMemorySaver
            from langgraph.func import entrypoint

            @entrypoint(checkpointer=InMemorySaver())
            def graph(text: str) -> int:
                return len(text)
            """
        )
    assert graph.graph is not None
    assert graph.graph.checkpointer is None
    assert logs[0]["checkpointer"] == "InMemorySaver"


def test_a_failure_leaves_the_other_graphs_and_is_logged_once(project: Project) -> None:
    project.file("bad.py", "value = 1\nraise RuntimeError('no key')", builder=False)
    project.file("good.py", "graph = build()")
    with capture_logs() as logs:
        catalogue = project.load(bad="./bad.py:graph", good="./good.py:graph")
        with pytest.raises(GraphLoadFailed):
            catalogue.get("bad")
        with pytest.raises(GraphLoadFailed) as caught:
            catalogue.get("bad")
    assert str(caught.value) == (
        "graph 'bad' (./bad.py:graph) does not load: RuntimeError: no key (bad.py, line"
        " 2); mend it and restart (the log has the whole traceback)"
    )
    assert catalogue.ids == ("good",)
    assert [graph.id for graph in catalogue] == ["good"]
    assert len(catalogue) == 1
    (log,) = logs
    assert (log["log_level"], log["event"]) == ("error", "graph.load_failed")
    failure = catalogue.failures["bad"]
    assert log["traceback"] == failure.traceback
    frames = [line for line in failure.traceback.splitlines() if "File " in line]
    assert len(frames) == 1, "only the user's own code is shown"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("def graph(:", "SyntaxError: invalid syntax (agent.py, line 1)"),
        ("import sys\nsys.exit('no key')", "SystemExit: no key (agent.py, line 2)"),
        ("assert 1 == 2", "AssertionError (agent.py, line 1)"),
        (
            "import nowhere.at_all",
            "ModuleNotFoundError: No module named 'nowhere' (agent.py, line 1); ",
        ),
        ("import json\njson.loads('{')", "JSONDecodeError: Expecting property name"),
    ],
)
def test_a_failed_import_names_its_cause_and_place(
    project: Project, source: str, cause: str
) -> None:
    assert cause in project.problem(source, builder=False)


def test_a_missing_module_says_where_to_put_it(project: Project) -> None:
    with capture_logs():
        catalogue = project.load(agent="nowhere_to_be_found:graph")
    with pytest.raises(GraphLoadFailed) as caught:
        catalogue.get("agent")
    assert "No module named 'nowhere_to_be_found'; install it where" in str(
        caught.value
    )


def test_a_missing_attribute_lists_the_graphs_of_the_file(project: Project) -> None:
    problem = project.problem("other = build()\nmore = build().compile()\nnumber = 1")
    assert f"no 'graph' in {project.root / 'agent.py'}" in problem
    assert "(graphs in it: other, more)" in problem


def test_a_file_without_a_graph_says_so(project: Project) -> None:
    assert "(no graph in it)" in project.problem("x = 1", builder=False)


def test_what_is_no_graph_is_refused_by_its_type(project: Project) -> None:
    assert "./agent.py:graph gives a str; it must be a StateGraph" in project.problem(
        "graph = 'text'"
    )


def test_a_missing_file_is_a_failure_of_its_graph_alone(project: Project) -> None:
    project.file("good.py", "graph = build().compile()")
    catalogue = project.load(bad="./gone/bad.py:graph", good="./good.py:graph")
    assert list(catalogue.ids) == ["good"]
    cause = catalogue.failures["bad"].cause
    assert f"no file {project.root / 'gone' / 'bad.py'}" in cause
    assert "relative to langgraph.json" in cause


def test_a_graph_that_does_not_compile_is_a_failure(project: Project) -> None:
    problem = project.problem("graph = StateGraph(State)")
    assert "does not load: ValueError: Graph must have an entrypoint" in problem


def test_a_failed_import_leaves_no_module_behind(project: Project) -> None:
    project.file("a-b.py", "raise RuntimeError", builder=False)
    with capture_logs():
        project.load(agent="./a-b.py:graph")
    assert not [name for name in sys.modules if name.startswith("threadmill_graph_a_b")]


def test_an_unknown_graph_lists_the_known_ones(project: Project) -> None:
    project.file("good.py", "graph = build()")
    project.file("bad.py", "raise RuntimeError", builder=False)
    with capture_logs():
        catalogue = project.load(good="./good.py:graph", bad="./bad.py:graph")
    with pytest.raises(NotFound) as caught:
        catalogue.get("agnet")
    assert str(caught.value) == "no graph 'agnet'; known graphs: good, bad"


def test_the_default_assistant_is_derived_from_the_graph_id(project: Project) -> None:
    graph = project.one("graph = build()")
    assert default_assistant_id("agent") == UUID("fe096781-5601-53d2-b2f6-0d3403f7e9ca")
    assert graph.assistant_id == default_assistant_id("agent")
    catalogue = project.load(agent="./agent.py:graph")
    found = catalogue.by_assistant(graph.assistant_id)
    assert found is not None
    assert found.id == "agent"
    assert catalogue.by_assistant(default_assistant_id("other")) is None


def test_a_description_and_a_target_are_kept(project: Project) -> None:
    project.file("agent.py", "graph = build()")
    spec = {"path": "./agent.py:graph", "description": "answers"}
    graph = load_graphs(project.config({"agent": spec})).get("agent")
    assert graph.description == "answers"
    assert graph.target == "./agent.py:graph"


class State(TypedDict):
    """A state of one name."""

    name: str


def test_a_graph_can_be_made_in_memory_for_a_test() -> None:
    spec = GraphSpec("agent", "here:graph", "graph", module="here")
    builder = StateGraph(State)
    builder.add_node("answer", lambda state: state)
    builder.add_edge(START, "answer")
    catalogue = GraphCatalogue([LoadedGraph(spec, builder)])
    assert catalogue.get("agent").graph is not None
