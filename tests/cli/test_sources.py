"""What counts as source, and when it has changed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE_SECONDS, Project
from threadmill.cli.sources import Sources
from threadmill.config import load_config


class Watched:
    """A project under watch."""

    def __init__(self, project: Project, ignored: tuple[Path, ...] = ()) -> None:
        self.root = project.root
        self._sources = Sources(load_config(project.root), ignored)

    async def changed(self) -> list[str]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            found = await self._sources.changed()
        return [str(path.relative_to(self.root)) for path in found]

    async def changed_after(self, name: str, text: str = "x = 1\n") -> list[str]:
        """What is told of a file that is written while somebody waits."""
        waiting = asyncio.create_task(self.changed())
        await asyncio.sleep(0)
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return await waiting


@pytest.fixture
def watched(project: Project) -> Watched:
    project.file("package/tools.py", "a = 1\n")
    return Watched(project)


@pytest.mark.parametrize(
    "name",
    ["agent.py", "package/tools.py", "langgraph.json", ".env", "prod.env", "new.py"],
)
async def test_sources_are_code_and_configuration(watched: Watched, name: str) -> None:
    assert await watched.changed_after(name, "{}") == [name]


async def test_a_change_between_two_looks_is_not_missed(watched: Watched) -> None:
    (watched.root / "agent.py").write_text("x = 1\n")
    assert await watched.changed() == ["agent.py"]


async def test_a_file_that_goes_is_a_change(watched: Watched) -> None:
    (watched.root / "package/tools.py").unlink()
    assert await watched.changed() == ["package/tools.py"]


async def test_folders_that_come_later_are_watched(watched: Watched) -> None:
    assert await watched.changed_after("later/deep/one.py") == ["later/deep/one.py"]
    assert await watched.changed_after("later/deep/two.py") == ["later/deep/two.py"]


async def test_what_a_graph_or_a_tool_writes_is_no_source(project: Project) -> None:
    data = project.root / "data"
    others = (
        "notes.md",
        "answers.json",
        "__pycache__/agent.py",
        ".venv/lib/a.py",
        ".threadmill/pg/a.py",
        "node_modules/a.py",
        "site-packages/a.py",
        "data/a.py",
        "environment/lib/a.py",
    )
    project.file("environment/pyvenv.cfg", "")
    watched = Watched(project, (data,))
    for name in others:
        project.file(name, "x = 1\n")
    assert await watched.changed_after("last.py") == ["last.py"]


async def test_reading_a_file_is_no_change(watched: Watched) -> None:
    agent = watched.root / "agent.py"
    agent.read_text()
    os.utime(agent, ns=(1, agent.stat().st_mtime_ns))
    assert await watched.changed_after("last.py") == ["last.py"]


async def test_graphs_and_dependencies_elsewhere_are_watched(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.file("../graphs/agent.py", "graph = None\n")
    project.file("../library/tools.py", "a = 1\n")
    project.file("x.py", "")
    project.config({"agent": "../graphs/agent.py:graph"}, dependencies=["../library"])
    watched = Watched(project)
    watched.root = tmp_path
    assert await watched.changed_after("graphs/agent.py") == ["graphs/agent.py"]
    assert await watched.changed_after("library/tools.py") == ["library/tools.py"]


async def test_a_graphs_folder_that_comes_later_is_noticed(project: Project) -> None:
    project.config({"agent": "./later/agent.py:graph"})
    assert await Watched(project).changed_after("later/agent.py") == ["later/agent.py"]
