"""Schemas are derived where they can be, and null elsewhere."""

import sys

import pytest

from tests.fixtures.graph_projects import Project, a_project

pytestmark = pytest.mark.langgraph

project = pytest.fixture(a_project)


@pytest.mark.parametrize("typed_dict", ["typing", "typing_extensions"])
async def test_schemas_are_derived_from_either_typed_dict(
    project: Project, typed_dict: str
) -> None:
    graph = project.one(
        f"""
        import dataclasses
        from typing import Literal, NotRequired
        from {typed_dict} import TypedDict
        from langgraph.managed import RemainingSteps

        class Item(TypedDict):
            text: str

        class Full(TypedDict):
            items: Annotated[list[Item], operator.add]
            kind: Literal["a", "b"] | None
            note: NotRequired[str]
            steps: RemainingSteps

        class Asked(TypedDict, total=False):
            kind: str

        @dataclasses.dataclass
        class Context:
            model: str = "small"

        builder = StateGraph(Full, context_schema=Context, input_schema=Asked)
        builder.add_node("answer", lambda state: {{}})
        builder.add_edge(START, "answer")
        graph = builder
        """
    )
    schemas = await graph.schemas()
    assert schemas.state is not None
    assert schemas.input is not None
    assert schemas.context is not None
    assert schemas.state["properties"]["items"]["items"] == {"$ref": "#/$defs/Item"}
    assert set(schemas.state["properties"]) == {"items", "kind", "note"}
    assert set(schemas.state["required"]) == {"items", "kind"}
    assert "required" not in schemas.input
    assert schemas.context["properties"]["model"]["default"] == "small"
    assert schemas.config == schemas.context
    assert await graph.schemas() is schemas


async def test_a_type_without_a_schema_gives_null(project: Project) -> None:
    graph = project.one(
        """
        class Odd:
            pass

        class Holder(TypedDict):
            odd: Odd

        builder = StateGraph(Holder, output_schema=State)
        builder.add_node("answer", lambda state: {})
        builder.add_edge(START, "answer")
        graph = builder.compile()
        """
    )
    schemas = await graph.schemas()
    assert (schemas.state, schemas.input, schemas.context) == (None, None, None)
    assert schemas.output is not None


async def test_the_schemas_of_a_factory_are_read_without_a_run(
    project: Project,
) -> None:
    graph = project.one(
        """
        seen = []
        def graph(runtime):
            seen.append(runtime.access_context)
            return build()
        """
    )
    assert (await graph.schemas()).state is not None
    assert sys.modules["agent"].seen == ["assistants.read"]


async def test_a_self_referring_state_has_a_schema(project: Project) -> None:
    graph = project.one(
        """
        class Node(TypedDict):
            children: "list[Node]"

        builder = StateGraph(Node)
        builder.add_node("answer", lambda state: {})
        builder.add_edge(START, "answer")
        graph = builder.compile()
        """
    )
    state = (await graph.schemas()).state
    assert state is not None
