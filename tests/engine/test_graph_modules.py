"""Files import in isolation, under names that every host gives them."""

import importlib
import json
import pickle
import sys
from pathlib import Path

import pytest

from tests.fixtures.graph_projects import Project, a_project, answer
from threadmill.engine.graphs import load_graphs

pytestmark = pytest.mark.langgraph

project = pytest.fixture(a_project)


async def test_two_files_of_one_name_do_not_meet(project: Project) -> None:
    project.file("a/graph.py", "graph = build('a')")
    project.file("b/graph.py", "graph = build('b')")
    catalogue = project.load(
        dependencies=("./a", "./b"), a="./a/graph.py:graph", b="./b/graph.py:graph"
    )
    assert await answer(catalogue.get("a")) == "a"
    assert await answer(catalogue.get("b")) == "b"


async def test_a_file_cannot_hide_an_installed_module(project: Project) -> None:
    project.file("json.py", "graph = build('mine')")
    catalogue = project.load(agent="./json.py:graph")
    assert await answer(catalogue.get("agent")) == "mine"
    assert sys.modules["json"] is json


def test_a_file_on_the_import_path_has_its_own_name(project: Project) -> None:
    project.file("states.py", "", builder=True)
    project.file("agent.py", "import states\ngraph = build()")
    project.load(agent="./agent.py:graph", same="./states.py:build")
    assert sys.modules["agent"].states is sys.modules["states"]


def test_two_graphs_of_one_file_share_its_module(project: Project) -> None:
    project.file("my-agents.py", "a = build()\nb = build()\nruns = []\nruns.append(1)")
    config = project.config({"a": "./my-agents.py:a", "b": "./my-agents.py:b"})
    load_graphs(config)
    (module,) = [
        m for n, m in sys.modules.items() if n.startswith("threadmill_graph_my_agents")
    ]
    assert module.runs == [1]


RELATIVE = """
    from .names import NAME
    from agents.names import NAME as SAME
    assert NAME is SAME
    graph = build(NAME.text)
"""


@pytest.mark.parametrize("layout", ["agents", "src/agents"])
async def test_a_file_of_a_package_imports_relatively_and_by_name(
    project: Project, layout: str
) -> None:
    project.file(f"{layout}/__init__.py", "", builder=False)
    project.file(
        f"{layout}/names.py", "class NAME:\n    text = 'package'", builder=False
    )
    project.file(f"{layout}/graph.py", RELATIVE)
    catalogue = project.load(agent=f"./{layout}/graph.py:graph")
    assert await answer(catalogue.get("agent")) == "package"
    assert "agents.graph" in sys.modules


async def test_a_package_off_the_import_path_imports_relatively(
    project: Project, tmp_path: Path
) -> None:
    inside = Project(tmp_path / "app")
    for letter in "ab":
        project.file(f"{letter}/agents/__init__.py", "", builder=False)
        project.file(f"{letter}/agents/names.py", f"NAME = '{letter}'", builder=False)
        project.file(f"{letter}/agents/deep/__init__.py", "graph = None", builder=False)
        project.file(
            f"{letter}/agents/deep/graph.py",
            "from ..names import NAME\ngraph = build(NAME)",
        )
    inside.root.mkdir()
    catalogue = inside.load(
        a="../a/agents/deep/graph.py:graph", b="../b/agents/deep/graph.py:graph"
    )
    assert await answer(catalogue.get("a")) == "a"
    assert await answer(catalogue.get("b")) == "b"
    assert "agents" not in sys.modules


async def test_a_packages_init_file_may_hold_the_graph(project: Project) -> None:
    project.file("agents/__init__.py", "from .names import NAME\ngraph = build(NAME)")
    project.file("agents/names.py", "NAME = 'init'", builder=False)
    catalogue = project.load(agent="./agents/__init__.py:graph")
    assert await answer(catalogue.get("agent")) == "init"


CLASSES = """
    import dataclasses
    from pydantic import BaseModel
    from typing import get_type_hints

    @dataclasses.dataclass
    class Point:
        x: "int"

    class Model(BaseModel):
        point: "Point"

    graph = build()
"""


@pytest.mark.parametrize("name", ["agent.py", "my-agent.py"])
def test_classes_of_a_file_are_found_again_by_their_module(
    project: Project, name: str
) -> None:
    project.file(name, CLASSES)
    project.load(agent=f"./{name}:graph")
    (module,) = [
        m
        for m in list(sys.modules.values())
        if getattr(m, "__file__", None) == str(project.root / name)
    ]
    point = module.Point(x=1)
    assert pickle.loads(pickle.dumps(point)) == point  # noqa: S301
    assert module.get_type_hints(module.Point) == {"x": int}
    assert module.Model(point=point).point == point
    assert importlib.import_module(module.Point.__module__) is module


def test_a_name_depends_on_the_relative_path_only(
    project: Project, tmp_path: Path
) -> None:
    names = []
    for host in ("one", "two"):
        there = Project(tmp_path / host)
        there.file("my-agent.py", CLASSES)
        there.load(agent="./my-agent.py:graph")
        prefix = "threadmill_graph_my_agent_"
        (name,) = [n for n in sys.modules if n.startswith(prefix)]
        names.append(name)
        assert sys.modules[name].__file__ == str(tmp_path / host / "my-agent.py")
    assert names[0] == names[1]


def test_the_import_path_is_extended_once_and_at_its_end(project: Project) -> None:
    project.file("agent.py", "graph = build()")
    before = list(sys.path)
    for _ in range(2):
        project.load(agent="./agent.py:graph")
    assert sys.path == [*before, str(project.root)]
