"""langgraph.json is taken exactly, and a mistake in it is one clear error."""

import dataclasses
import json
import sys
from pathlib import Path
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from threadmill.config import KEYS, KeyUse, LangGraphConfig, load_config
from threadmill.domain.retention import FOR_EVER, Strategy, Ttl
from threadmill.errors import BadSetting
from threadmill.settings import Settings

SECRET = "correct-horse"


class Project:
    """A folder with a langgraph.json, and the warnings of reading it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "langgraph.json"
        self.warned: list[str] = []
        (root / "agent.py").write_text("raise RuntimeError('imported')\n")

    def write(self, **keys: object) -> None:
        document = {"graphs": {"agent": "./agent.py:graph"}, **keys}
        self.file.write_text(json.dumps(document))

    def load(self, **keys: object) -> LangGraphConfig:
        self.write(**keys)
        return load_config(self.file, warn=self.warned.append)

    def problem(self, **keys: object) -> str:
        """The error of these keys, without the file's name in front."""
        self.write(**keys)
        return self.problem_of_file()

    def problem_of_file(self) -> str:
        with pytest.raises(BadSetting) as caught:
            load_config(self.file, warn=self.warned.append)
        return str(caught.value).removeprefix(f"{self.file}: ")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    return Project(root)


def test_a_graph_is_an_attribute_of_a_file(project: Project) -> None:
    config = project.load()
    (graph,) = config.graphs
    assert (graph.id, graph.attribute) == ("agent", "graph")
    assert graph.file == project.root / "agent.py"
    assert graph.module is None
    assert graph.target == "./agent.py:graph"
    assert project.warned == []


def test_a_graph_may_be_described_and_keeps_its_place(project: Project) -> None:
    graphs = {
        "b": {"path": "./agent.py:graph", "description": "answers"},
        "a": "my_pkg.agents:builder.graph",
    }
    first, second = project.load(graphs=graphs).graphs
    assert (first.id, first.description) == ("b", "answers")
    assert (second.module, second.attribute) == ("my_pkg.agents", "builder.graph")
    assert second.file is None


def test_nothing_of_the_user_is_imported(project: Project) -> None:
    before = set(sys.modules), list(sys.path)
    project.load(dependencies=["."])
    assert (set(sys.modules), list(sys.path)) == before


def test_the_folder_may_stand_for_the_file(project: Project) -> None:
    project.write()
    config = load_config(project.root)
    assert config.path == project.file
    assert config.root == project.root


def test_the_default_is_the_file_in_the_current_folder(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write()
    monkeypatch.chdir(project.root)
    assert load_config().path == project.file


def test_a_missing_file_says_where_to_run_or_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(BadSetting) as caught:
        load_config(tmp_path)
    assert str(caught.value) == (
        f"no file {tmp_path / 'langgraph.json'}; run in the folder that holds"
        " langgraph.json, or name the file with --config"
    )


def test_a_syntax_error_is_named_by_line_and_column(project: Project) -> None:
    project.file.write_text('{\n  "graphs": {"a": "./agent.py:graph",}\n}')
    assert project.problem_of_file().startswith("not JSON at line 2, column ")


def test_a_byte_order_mark_is_no_error_and_other_encodings_are(
    project: Project,
) -> None:
    text = '{"graphs": {"agent": "./agent.py:graph"}}'
    project.file.write_text(text, encoding="utf-8-sig")
    assert load_config(project.file).graphs
    project.file.write_bytes('{"ä": 1}'.encode("latin-1"))
    assert project.problem_of_file() == "not UTF-8 at byte 2; save it so"


def test_the_document_must_be_an_object(project: Project) -> None:
    project.file.write_text("[]")
    assert project.problem_of_file() == 'it must be an object: {"graphs": {...}}'


@pytest.mark.parametrize("graphs", [None, {}, [], "agent"])
def test_no_graphs_shows_how_to_write_one(project: Project, graphs: object) -> None:
    assert project.problem(graphs=graphs) == (
        "'graphs' must name at least one graph:"
        ' {"graphs": {"agent": "./agent.py:graph"}}'
    )


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (
            "./agent.py",
            "graphs.agent: './agent.py' is not path:attribute; write the file, ",
        ),
        ("./agent.py", "such as ./agent.py:graph"),
        ("./agent.py:", "graphs.agent: './agent.py:' is not path:attribute"),
        (":graph", "graphs.agent: ':graph' is not path:attribute"),
        ("./agent.py:a-b", "graphs.agent: './agent.py:a-b' is not path:attribute"),
        ("./agent.js:graph", "graphs.agent: ./agent.js is no .py file; graphs are"),
        ("my-pkg:graph", "graphs.agent: 'my-pkg' is neither a .py file nor a module's"),
        (3, "graphs.agent must be \"path:attribute\" or an object with 'path'"),
        ({}, "graphs.agent must be \"path:attribute\" or an object with 'path'"),
        (
            {"path": "./agent.py:g", "description": 1},
            "graphs.agent.description must be a string",
        ),
    ],
)
def test_a_bad_target_says_what_to_write(
    project: Project, target: object, problem: str
) -> None:
    assert problem in project.problem(graphs={"agent": target})


def test_a_missing_graph_file_is_for_the_loader_to_tell(project: Project) -> None:
    (spec,) = project.load(graphs={"agent": "./gone.py:graph"}).graphs
    assert spec.file == project.root / "gone.py"


@pytest.mark.parametrize(
    ("graph_id", "problem"),
    [
        ("", "'graphs' has an empty id"),
        ("fe096781-5601-53d2-b2f6-0d3403f7e9ca", "would be read as an assistant's id"),
    ],
)
def test_an_id_that_cannot_be_asked_for_is_refused(
    project: Project, graph_id: str, problem: str
) -> None:
    assert problem in project.problem(graphs={graph_id: "./agent.py:graph"})


def test_a_repeated_key_is_reported(project: Project) -> None:
    project.file.write_text(
        '{"graphs": {"a": "./agent.py:x", "a": "./agent.py:graph"}}'
    )
    (graph,) = load_config(project.file, warn=project.warned.append).graphs
    assert graph.attribute == "graph"
    assert project.warned == ["key 'a' is repeated; the last one is used"]


def test_an_unknown_key_warns_with_the_closest_known_one(project: Project) -> None:
    project.load(
        graph={}, xyzzy=1, graphs={"agent": {"path": "./agent.py:g", "colour": 1}}
    )
    assert sorted(project.warned) == [
        "key 'graph' is not known; did you mean 'graphs'?",
        "key 'graphs.agent.colour' is not known; it is ignored",
        "key 'xyzzy' is not known; it is ignored",
    ]


def test_a_key_that_this_version_does_not_use_says_what_is_missing(
    project: Project,
) -> None:
    config = project.load(auth={"path": "./auth.py:auth"}, store={"ttl": {}})
    assert config.unused_keys == ("auth", "store")
    assert project.warned == [
        "key 'auth' is not used by this version: requests are NOT authenticated",
        "key 'store' is not used by this version: graphs get no store",
    ]


def test_every_unused_key_warns_and_every_image_key_is_silent(
    project: Project,
) -> None:
    unused = {name for name, key in KEYS.items() if key.use is KeyUse.UNUSED}
    build = {name for name, key in KEYS.items() if key.use is KeyUse.BUILD}
    config = project.load(**dict.fromkeys(unused | build, "x"))
    assert set(config.unused_keys) == unused
    assert len(project.warned) == len(unused)
    assert all(KEYS[name].without for name in unused)


def test_warnings_are_logged_when_nobody_takes_them(project: Project) -> None:
    project.write(store={"ttl": {}})
    with capture_logs() as logs:
        load_config(project.file)
    assert [(log["log_level"], log["path"]) for log in logs] == [
        ("warning", str(project.file))
    ]


def test_env_may_be_written_in_place(project: Project) -> None:
    config = project.load(env={"A": "1", "PORT": 8, "RATE": 0.5, "ON": True})
    assert config.env == {"A": "1", "PORT": "8", "RATE": "0.5", "ON": "true"}


def test_env_may_be_a_file(project: Project) -> None:
    (project.root / ".env").write_text(
        f"# comment\nexport A='1 2'\nB={SECRET}\nEMPTY=\nNAKED\n"
    )
    config = project.load(env="./.env")
    assert config.env == {"A": "1 2", "B": SECRET, "EMPTY": ""}
    assert project.warned == [
        f"{project.root / '.env'}: NAKED has no value; write NAKED=... or remove it"
    ]


def test_a_missing_env_file_is_named(project: Project) -> None:
    assert project.problem(env=".env") == (
        f"env: no file {project.root / '.env'}; create it or remove the key"
    )


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ([], "'env' must be an object or the path of a .env file"),
        ({"A": None}, "env.A must be a string"),
        ({"A": {"secret": SECRET}}, "env.A must be a string"),
        ({"": "x"}, "env.: not a name and value the environment can hold"),
        ({"A=B": SECRET}, "env.A=B: not a name and value the environment can hold"),
        ({"A": f"{SECRET}\0"}, "env.A: not a name and value the environment can hold"),
    ],
)
def test_a_bad_variable_is_named_and_never_shown(
    project: Project, env: object, problem: str
) -> None:
    assert project.problem(env=env) == problem


def test_a_repr_hides_env(project: Project) -> None:
    assert SECRET not in repr(project.load(env={"OPENAI_API_KEY": SECRET}))


def test_the_real_environment_wins_over_env(project: Project) -> None:
    config = project.load(env={"A": "file", "B": "file", "C": "same"})
    environ = {"A": "real", "C": "same"}
    assert config.apply_env(environ) == ["A"]
    assert environ == {"A": "real", "B": "file", "C": "same"}


def test_apply_env_fills_the_process_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADMILL_TEST_VARIABLE", "real")
    config = project.load(env={"THREADMILL_TEST_VARIABLE": "file"})
    assert config.apply_env() == ["THREADMILL_TEST_VARIABLE"]


def test_settings_may_stand_in_env(project: Project) -> None:
    config = project.load(env={"THREADMILL_SLOTS": "4", "THREADMILL_DISPATCH": "node"})
    settings = Settings.from_env({"N_JOBS_PER_WORKER": "2"}, fallback=config.env)
    assert (settings.slots, settings.dispatch) == (2, "node")


def test_the_folder_of_the_file_is_always_importable(project: Project) -> None:
    assert project.load().import_paths == (project.root,)
    assert project.load(dependencies=["."]).import_paths == (project.root,)
    assert project.load(dependencies=["langchain"]).import_paths == (project.root,)


def test_a_src_layout_is_found(project: Project) -> None:
    (project.root / "lib" / "src").mkdir(parents=True)
    (project.root / "src").mkdir()
    assert project.load(dependencies=["./lib", "."]).import_paths == (
        project.root / "lib" / "src",
        project.root / "lib",
        project.root / "src",
        project.root,
    )


def test_a_package_named_src_is_no_source_root(project: Project) -> None:
    (project.root / "src").mkdir()
    (project.root / "src" / "__init__.py").touch()
    assert project.load(dependencies=["."]).import_paths == (project.root,)


def test_a_dependency_that_is_a_package_is_importable_by_its_name(
    project: Project,
) -> None:
    (project.root / "agents").mkdir()
    (project.root / "agents" / "__init__.py").touch()
    paths = project.load(dependencies=["./agents"]).import_paths
    assert paths == (project.root, project.root / "agents")


def test_an_absolute_dependency_is_local_too(project: Project, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths = project.load(dependencies=[str(elsewhere)]).import_paths
    assert paths == (elsewhere, project.root)


@pytest.mark.parametrize(
    ("dependencies", "problem"),
    [
        (".", "'dependencies' must be a list such as [\".\"]"),
        ([1], "dependencies[0] must be a string"),
    ],
)
def test_bad_dependencies_are_named(
    project: Project, dependencies: object, problem: str
) -> None:
    assert project.problem(dependencies=dependencies) == problem


def test_a_missing_local_dependency_is_named(project: Project) -> None:
    assert project.problem(dependencies=["langchain", "./gone"]) == (
        f"dependencies[1]: no folder {project.root / 'gone'}; create it or remove the"
        " entry"
    )


def test_a_local_file_as_dependency_warns(project: Project) -> None:
    (project.root / "x.whl").touch()
    project.load(dependencies=["./x.whl"])
    assert project.warned == [
        "dependencies[0]: ./x.whl is no folder; install it yourself"
    ]


def test_a_config_is_frozen(project: Project) -> None:
    config = project.load(env={"A": "1"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.path = Path()  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.env["A"] = "2"  # type: ignore[index]


def test_a_graph_may_make_dead_letters_of_its_errors(project: Project) -> None:
    config = project.load(
        graphs={"agent": "./agent.py:graph", "other": "./agent.py:graph"},
        threadmill={"graphs": {"agent": {"dead_letter_errors": True}}},
    )
    policies = {graph.id: graph.policy.dead_letter_errors for graph in config.graphs}
    assert policies == {"agent": True, "other": False}
    assert project.warned == []


@pytest.mark.parametrize(
    ("ours", "problem"),
    [
        ([], "threadmill must be an object; it may have: assistants, graphs"),
        (
            {"graph": {}},
            "threadmill.graph is not known; there may be: assistants, graphs",
        ),
        (
            {"assistants": []},
            "threadmill.assistants must be an object: assistants' ids to options",
        ),
        (
            {"assistants": {"agent": {}}},
            (
                "threadmill.assistants.agent: the id of an assistant is a UUID; graphs "
                "have a key 'graphs'"
            ),
        ),
        (
            {"assistants": {str(UUID(int=1)): {}, UUID(int=1).hex: {}}},
            f"threadmill.assistants.{UUID(int=1).hex}: this assistant is named twice",
        ),
        (
            {"assistants": {str(UUID(int=1)): {"label": []}}},
            (
                f"threadmill.assistants.{UUID(int=1)}.label is not known; there may "
                "be: labels"
            ),
        ),
        (
            {"assistants": {str(UUID(int=1)): {"labels": "gpu"}}},
            (
                f"threadmill.assistants.{UUID(int=1)}.labels must be a list of labels, "
                'such as ["gpu"]'
            ),
        ),
        ({"graphs": []}, "threadmill.graphs must be an object: graph ids to options"),
        ({"graphs": {"agnt": {}}}, "threadmill.graphs.agnt: 'graphs' has no 'agnt'"),
        (
            {"graphs": {"agent": {"dead_letters": True}}},
            (
                "threadmill.graphs.agent.dead_letters is not known; there may be: "
                "checkpoints, dead_letter_errors, history, labels, ttl"
            ),
        ),
        (
            {"graphs": {"agent": {"dead_letter_errors": "yes"}}},
            "threadmill.graphs.agent.dead_letter_errors must be true or false",
        ),
    ],
)
def test_a_mistake_under_our_own_key_is_an_error(
    project: Project, ours: object, problem: str
) -> None:
    assert project.problem(threadmill=ours) == problem


def test_labels_of_graphs_and_assistants(project: Project) -> None:
    one = UUID(int=1)
    labels = {"labels": ["gpu", "eu", "gpu"]}
    config = project.load(
        threadmill={"graphs": {"agent": labels}, "assistants": {str(one): labels}}
    )
    assert config.graphs[0].policy.labels == ("eu", "gpu")
    assert config.assistant_labels == {one: ("eu", "gpu")}
    assert project.load().assistant_labels == {}


def test_how_long_threads_are_kept(project: Project) -> None:
    config = project.load(
        checkpointer={"ttl": {"strategy": "keep_latest", "default_ttl": 60}},
        threadmill={"graphs": {"agent": {"ttl": {"default_ttl": 5}}}},
    )
    assert config.ttl.ttl == Ttl(60, Strategy.KEEP_LATEST)
    assert config.graphs[0].policy.ttl == Ttl(5)
    assert (config.unused_keys, project.warned) == ((), [])
    config = project.load(threadmill={"graphs": {"agent": {"ttl": None}}})
    assert (config.ttl.ttl, config.graphs[0].policy.ttl) == (None, FOR_EVER)
    project.load(checkpointer={"serde": {}})
    assert project.warned == ["key 'checkpointer.serde' is not used by this version"]
    assert project.problem(checkpointer=5) == "'checkpointer' must be an object"
    problem = project.problem(checkpointer={"ttl": {"days": 1}})
    assert problem.startswith("checkpointer.ttl.days is not known")
    problem = project.problem(threadmill={"graphs": {"agent": {"ttl": 5}}})
    assert problem.startswith("threadmill.graphs.agent.ttl must be null")


def test_paths_that_histories_are_indexed_by(project: Project) -> None:
    policy = {"history": {"index": ["order.status", "b", "b"]}}
    config = project.load(threadmill={"graphs": {"agent": policy}})
    assert config.graphs[0].policy.history == ("b", "order.status")
    for wrong in ("a", ["a..b"], [1], ["x" * 300]):
        policy = {"history": {"index": wrong}}  # type: ignore[dict-item]
        problem = project.problem(threadmill={"graphs": {"agent": policy}})
        assert problem.startswith("threadmill.graphs.agent.history.index")
