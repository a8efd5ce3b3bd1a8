"""langgraph.json: which graphs a process serves, and what they need around them.

Why: users bring the file they already have. What this version honours is taken
exactly, what it does not use is said aloud, and a mistake is one clear error before
anything starts.

Promises: nothing of the user's is imported or executed here, and `os.environ` is not
touched (`LangGraphConfig.apply_env` is a call of its own). An unknown or unused key
warns and never fails, except under `threadmill`: nobody else reads that, so a key that
is not known there is a mistake. Order of an environment variable: the real
environment, then the file's `env`.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

import dotenv
import structlog

from threadmill.domain.labels import labels
from threadmill.domain.paths import declared_paths
from threadmill.domain.retention import Ttl, TtlDefaults, graph_ttl, ttl_defaults
from threadmill.errors import BadSetting

Warn = Callable[[str], None]


class KeyUse(StrEnum):
    """What this version does with a key."""

    HONOURED = "honoured"
    UNUSED = "not used yet"
    BUILD = "images only"


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """What the reference page says about one key, and what not using it means."""

    use: KeyUse
    description: str
    without: str = ""


def _honoured(description: str) -> KeyDescription:
    return KeyDescription(KeyUse.HONOURED, description)


def _unused(description: str, without: str) -> KeyDescription:
    return KeyDescription(KeyUse.UNUSED, description, without)


def _build(description: str) -> KeyDescription:
    return KeyDescription(KeyUse.BUILD, description)


#: Every key this version knows; docs/reference/langgraph-json.md lists the same.
KEYS: Mapping[str, KeyDescription] = MappingProxyType(
    {
        "graphs": _honoured("The graphs to serve, by id."),
        "env": _honoured("Environment variables, or the path of a .env file."),
        "dependencies": _honoured("Local folders to import from; packages."),
        "threadmill": _honoured("What Threadmill does with each graph's runs."),
        "store": _unused("Long-term memory.", "graphs get no store"),
        "checkpointer": _honoured("How long threads are kept, under `ttl`."),
        "auth": _unused("Authentication handlers.", "requests are NOT authenticated"),
        "encryption": _unused("Encryption handlers.", "state is NOT encrypted"),
        "priority": _unused("Priority of runs.", "runs start in order of arrival"),
        "http": _unused("Routes, CORS, middleware.", "custom routes are not served"),
        "webhooks": _unused("Rules for webhooks.", "webhooks are not sent"),
        "ui": _unused("Generative UI bundles.", "UI bundles are not served"),
        "ui_config": _unused("Options of `ui`.", "UI bundles are not served"),
        "$schema": _build("The editor's schema of this file."),
        "python_version": _build("Python of the image."),
        "node_version": _build("Node of the image."),
        "api_version": _build("Server version of the image."),
        "base_image": _build("Base image."),
        "image_distro": _build("Distribution of the image."),
        "pip_config_file": _build("pip's configuration."),
        "pip_installer": _build("pip or uv."),
        "source": _build("Where the image's packages come from."),
        "dockerfile_lines": _build("Extra lines of the Dockerfile."),
        "keep_pkg_tools": _build("Whether the image keeps its package tools."),
        "_INTERNAL_docker_tag": _build("Tag of the base image."),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPolicy:
    """What langgraph.json says under `threadmill.graphs` about one graph's runs.

    `dead_letter_errors`: an error that the graph raises makes its run a dead letter,
    as spent attempts always do. `labels`: what a worker must have to take anything of
    its runs. `ttl`: how long its threads are kept. `history`: the paths in its state
    that a search of histories finds by an index. `checkpoints`: `redis` or `postgres`,
    if it is said where what they hold lies.
    """

    dead_letter_errors: bool = False
    labels: tuple[str, ...] = ()
    ttl: Ttl | None = None
    history: tuple[str, ...] = ()
    checkpoints: str | None = None


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """Where one graph is: an attribute of a file or of an importable module.

    Neither need be there: that is for whoever loads the graph to tell.
    """

    id: str
    target: str
    attribute: str
    file: Path | None = None
    module: str | None = None
    description: str | None = None
    policy: GraphPolicy = GraphPolicy()


@dataclass(frozen=True, slots=True)
class LangGraphConfig:
    """A checked langgraph.json.

    `env` is hidden from `repr`: it holds keys. `import_paths` are the folders that
    graphs may import from, in order. `unused_keys` are the keys that are set and that
    this version does not use. `ttl` is how long threads are kept that nobody else has a
    rule for. `assistant_labels` are what a worker must have to take anything of an
    assistant's runs, besides its graph's labels.
    """

    path: Path
    graphs: tuple[GraphSpec, ...]
    env: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), repr=False
    )
    import_paths: tuple[Path, ...] = ()
    unused_keys: tuple[str, ...] = ()
    ttl: TtlDefaults = field(default_factory=TtlDefaults)
    assistant_labels: Mapping[UUID, Sequence[str]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    @property
    def root(self) -> Path:
        """The folder of the file; its relative paths begin here."""
        return self.path.parent

    def apply_env(self, environ: MutableMapping[str, str] | None = None) -> list[str]:
        """Sets the variables of `env` that `environ` lacks, for the graphs to read.

        Args:
            environ: what to fill; the process's own environment when None.

        Returns:
            The names that `environ` already had with another value, which stays.
        """
        target = os.environ if environ is None else environ
        kept = [n for n, v in self.env.items() if target.get(n, v) != v]
        for name, value in self.env.items():
            target.setdefault(name, value)
        return kept


def load_config(
    path: str | Path = "langgraph.json", *, warn: Warn | None = None
) -> LangGraphConfig:
    """Reads and checks the file, or the langgraph.json in the folder, at `path`.

    Args:
        path: the file or its folder.
        warn: takes one line per unused, unknown or repeated key; logs it when None.

    Raises:
        BadSetting: the file is missing or wrong; the message says where and what to do.
    """
    log = structlog.get_logger(__name__)
    file = _find(Path(path))
    parser = _Parser(file, warn or (lambda line: log.warning(line, path=str(file))))
    return parser.parse()


def _find(path: Path) -> Path:
    file = Path(os.path.abspath(path / "langgraph.json" if path.is_dir() else path))  # noqa: PTH100 - resolve() would follow a symbolic link to another folder
    if not file.is_file():
        raise BadSetting(
            f"no file {file}; run in the folder that holds langgraph.json, or name the"
            " file with --config"
        )
    return file


class _Parser:
    """Turns one file into a `LangGraphConfig`, reporting each problem by its key."""

    def __init__(self, file: Path, warn: Warn) -> None:
        self._file = file
        self._root = file.parent
        self._warn = warn

    def parse(self) -> LangGraphConfig:
        document = self._read()
        unused = tuple(self._check_keys(document))
        ours = self._ours(document.get("threadmill"))
        return LangGraphConfig(
            path=self._file,
            graphs=self._graphs(document.get("graphs"), self._policies(ours)),
            env=MappingProxyType(self._env(document.get("env"))),
            import_paths=self._import_paths(document.get("dependencies")),
            unused_keys=unused,
            ttl=self._ttl(document.get("checkpointer")),
            assistant_labels=MappingProxyType(self._assistant_labels(ours)),
        )

    def _bad(self, problem: str) -> BadSetting:
        return BadSetting(f"{self._file}: {problem}")

    def _read(self) -> dict[str, object]:
        try:
            text = self._file.read_text(encoding="utf-8-sig")
            document = json.loads(text, object_pairs_hook=self._object)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise self._bad(f"not JSON at {where}: {error.msg.lower()}") from None
        except UnicodeDecodeError as error:
            raise self._bad(f"not UTF-8 at byte {error.start}; save it so") from None
        except OSError as error:
            raise self._bad(f"cannot be read: {error.strerror}") from None
        if not isinstance(document, dict):
            raise self._bad('it must be an object: {"graphs": {...}}')
        return document

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        """Builds a JSON object; `json` alone drops a repeated key in silence."""
        names = [name for name, _ in pairs]
        for name in sorted({n for n in names if names.count(n) > 1}):
            self._warn(f"key '{name}' is repeated; the last one is used")
        return dict(pairs)

    def _check_keys(self, document: Mapping[str, object]) -> Iterator[str]:
        for key, value in document.items():
            known = KEYS.get(key)
            if known is None:
                self._warn(_unknown_key(key))
            elif known.use is KeyUse.UNUSED and value:
                self._warn(f"key '{key}' is not used by this version: {known.without}")
                yield key

    def _graphs(
        self, graphs: object, policies: Mapping[str, GraphPolicy]
    ) -> tuple[GraphSpec, ...]:
        if not isinstance(graphs, dict) or not graphs:
            raise self._bad(
                "'graphs' must name at least one graph:"
                ' {"graphs": {"agent": "./agent.py:graph"}}'
            )
        for name in policies.keys() - graphs.keys():
            raise self._bad(f"threadmill.graphs.{name}: 'graphs' has no '{name}'")
        specs = (self._graph(name, value) for name, value in graphs.items())
        return tuple(
            replace(spec, policy=policies.get(spec.id, spec.policy)) for spec in specs
        )

    def _graph(self, graph_id: str, value: object) -> GraphSpec:
        where = f"graphs.{graph_id}"
        self._check_graph_id(graph_id)
        description = None
        if isinstance(value, dict):
            for key in value.keys() - {"path", "description"}:
                self._warn(f"key '{where}.{key}' is not known; it is ignored")
            description = value.get("description")
            value = value.get("path")
        if not isinstance(value, str):
            raise self._bad(
                f"{where} must be \"path:attribute\" or an object with 'path'"
            )
        if not isinstance(description, str | None):
            raise self._bad(f"{where}.description must be a string")
        return self._target(where, graph_id, value, description)

    def _check_graph_id(self, graph_id: str) -> None:
        if not graph_id.strip():
            raise self._bad("'graphs' has an empty id; give the graph a name")
        try:
            UUID(graph_id)
        except ValueError:
            return
        raise self._bad(f"graphs.{graph_id}: a UUID would be read as an assistant's id")

    def _target(
        self, where: str, graph_id: str, target: str, description: str | None
    ) -> GraphSpec:
        location, _, attribute = target.strip().rpartition(":")
        location, attribute = location.strip(), attribute.strip()
        if not location or not _is_dotted_name(attribute):
            raise self._bad(
                f"{where}: {target!r} is not path:attribute; write the file, a colon"
                " and the name of the graph in it, such as ./agent.py:graph"
            )
        file = module = None
        if "/" in location or "\\" in location or location.endswith(".py"):
            file = self._graph_file(where, location)
        elif _is_dotted_name(location):
            module = location
        else:
            raise self._bad(
                f"{where}: {location!r} is neither a .py file nor a module's name"
            )
        return GraphSpec(graph_id, target, attribute, file, module, description)

    def _graph_file(self, where: str, location: str) -> Path:
        file = self._path(location)
        if file.suffix != ".py":
            raise self._bad(f"{where}: {location} is no .py file; graphs are Python")
        return file

    def _path(self, location: str) -> Path:
        return Path(os.path.normpath(self._root / location))

    def _ours(self, ours: object) -> dict[str, object]:
        """What only Threadmill reads."""
        names = {"assistants", "graphs"}
        return self._known("threadmill", {} if ours is None else ours, names)

    def _policies(self, ours: Mapping[str, object]) -> dict[str, GraphPolicy]:
        graphs = ours.get("graphs", {})
        if not isinstance(graphs, dict):
            raise self._bad("threadmill.graphs must be an object: graph ids to options")
        return {
            name: self._policy(f"threadmill.graphs.{name}", options)
            for name, options in graphs.items()
        }

    def _assistant_labels(
        self, ours: Mapping[str, object]
    ) -> dict[UUID, Sequence[str]]:
        assistants = ours.get("assistants", {})
        if not isinstance(assistants, dict):
            raise self._bad(
                "threadmill.assistants must be an object: assistants' ids to options"
            )
        found: dict[UUID, Sequence[str]] = {}
        for name, value in assistants.items():
            where = f"threadmill.assistants.{name}"
            options = self._known(where, value, {"labels"})
            try:
                assistant_id = UUID(name)
            except ValueError:
                problem = "the id of an assistant is a UUID; graphs have a key 'graphs'"
                raise self._bad(f"{where}: {problem}") from None
            if assistant_id in found:
                raise self._bad(f"{where}: this assistant is named twice")
            given = options.get("labels", ())
            try:
                found[assistant_id] = labels(given, f"{where}.labels")
            except BadSetting as error:
                raise self._bad(str(error)) from None
        return found

    def _policy(self, where: str, options: object) -> GraphPolicy:
        names = {field.name for field in fields(GraphPolicy)}
        options = self._known(where, options, names)
        errors = options.get("dead_letter_errors", False)
        if not isinstance(errors, bool):
            raise self._bad(f"{where}.dead_letter_errors must be true or false")
        history = self._known(f"{where}.history", options.get("history", {}), {"index"})
        place = options.get("checkpoints")
        if place not in {None, "postgres", "redis"}:
            raise self._bad(f"{where}.checkpoints must be 'postgres' or 'redis'")
        try:
            ttl = (
                graph_ttl(options["ttl"], f"{where}.ttl") if "ttl" in options else None
            )
            return GraphPolicy(
                dead_letter_errors=errors,
                labels=labels(options.get("labels", ()), f"{where}.labels"),
                ttl=ttl,
                history=declared_paths(
                    history.get("index", ()), f"{where}.history.index"
                ),
                checkpoints=None if place is None else str(place),
            )
        except BadSetting as error:
            raise self._bad(str(error)) from None

    def _ttl(self, checkpointer: object) -> TtlDefaults:
        """`checkpointer.ttl`; its other keys concern LangGraph's own savers."""
        if checkpointer is None:
            return TtlDefaults()
        if not isinstance(checkpointer, dict):
            raise self._bad("'checkpointer' must be an object")
        for key in sorted(checkpointer.keys() - {"ttl"}):
            self._warn(f"key 'checkpointer.{key}' is not used by this version")
        if checkpointer.get("ttl") is None:
            return TtlDefaults()
        try:
            return ttl_defaults(checkpointer["ttl"], "checkpointer.ttl")
        except BadSetting as error:
            raise self._bad(str(error)) from None

    def _known(self, where: str, value: object, names: set[str]) -> dict[str, object]:
        """`value` as an object that has no other keys than `names`."""
        known = ", ".join(sorted(names))
        if not isinstance(value, dict):
            raise self._bad(f"{where} must be an object; it may have: {known}")
        for key in value.keys() - names:
            raise self._bad(f"{where}.{key} is not known; there may be: {known}")
        return value

    def _env(self, env: object) -> dict[str, str]:
        if env is None:
            return {}
        if isinstance(env, str):
            return self._env_file(env)
        if not isinstance(env, dict):
            raise self._bad("'env' must be an object or the path of a .env file")
        return {name: self._variable(name, value) for name, value in env.items()}

    def _env_file(self, location: str) -> dict[str, str]:
        file = self._path(location)
        if not file.is_file():
            raise self._bad(f"env: no file {file}; create it or remove the key")
        try:
            found = dotenv.dotenv_values(file, encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise self._bad(f"env: {file} cannot be read: {error}") from None
        for name in (name for name, value in found.items() if value is None):
            self._warn(f"{file}: {name} has no value; write {name}=... or remove it")
        return {n: self._variable(n, v) for n, v in found.items() if v is not None}

    def _variable(self, name: str, value: object) -> str:
        """A value as environment text; messages never show it, it may be a secret."""
        if isinstance(value, bool):
            value = str(value).lower()
        if isinstance(value, int | float):
            value = str(value)
        if not isinstance(value, str):
            raise self._bad(f"env.{name} must be a string")
        if not name or "=" in name or "\0" in name + value:
            raise self._bad(
                f"env.{name}: not a name and value the environment can hold"
            )
        return value

    def _import_paths(self, dependencies: object) -> tuple[Path, ...]:
        """Local dependencies as folders; the file's own folder is always the last."""
        if dependencies is None:
            dependencies = []
        if not isinstance(dependencies, list):
            raise self._bad("'dependencies' must be a list such as [\".\"]")
        paths: list[Path] = []
        for index, entry in enumerate(dependencies):
            if not isinstance(entry, str):
                raise self._bad(f"dependencies[{index}] must be a string")
            if entry.startswith(".") or Path(entry).is_absolute():
                paths += self._local(f"dependencies[{index}]", entry)
        paths += _roots(self._root)
        return tuple(dict.fromkeys(paths))

    def _local(self, where: str, entry: str) -> Sequence[Path]:
        folder = self._path(entry)
        if folder.is_dir():
            return _roots(folder)
        if folder.exists():
            self._warn(f"{where}: {entry} is no folder; install it yourself")
            return ()
        raise self._bad(f"{where}: no folder {folder}; create it or remove the entry")


def _roots(folder: Path) -> list[Path]:
    """The folders to import from when `folder` is a project or a package itself."""
    roots = [folder]
    source = folder / "src"
    if source.is_dir() and not (source / "__init__.py").exists():
        roots.insert(0, source)
    if (folder / "__init__.py").exists():
        roots.insert(0, folder.parent)
    return roots


def _unknown_key(key: str) -> str:
    close = difflib.get_close_matches(key, KEYS, n=1)
    advice = f"did you mean '{close[0]}'?" if close else "it is ignored"
    return f"key '{key}' is not known; {advice}"


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))
