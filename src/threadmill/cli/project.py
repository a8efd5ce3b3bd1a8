"""Reads what a command works on: langgraph.json and the settings, then sets logs up.

The order matters: settings may stand in the file's `env`, and how to log is a setting.
So what the file and the settings warn of is kept, and logged once that is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydantic import SecretStr

from threadmill.config import LangGraphConfig, load_config
from threadmill.errors import BadSetting, SetupError
from threadmill.logs import configure_logs
from threadmill.settings import SLOTS_MAX, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from threadmill.engine.graphs import GraphCatalogue

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Project:
    """A checked langgraph.json and the settings that go with it."""

    config: LangGraphConfig
    settings: Settings


def open_project(
    path: Path,
    *,
    slots: int | None = None,
    database_uri: str | None = None,
    runs_graphs: bool = True,
) -> Project:
    """Reads the project at `path`; logs go where its settings say from then on.

    Args:
        path: langgraph.json or its folder.
        slots: in place of the setting's.
        database_uri: in place of the setting's.
        runs_graphs: whether this process will load them: then the variables of the
            file's `env` become part of its environment, for them to read.

    Raises:
        BadSetting: the file or a setting is wrong.
    """
    warnings: list[str] = []
    config = load_config(path, warn=warnings.append)
    settings = Settings.from_env(fallback=config.env, warn=warnings.append)
    if slots is not None:
        if slots > SLOTS_MAX:
            msg = f"--slots {slots}: it should be less than or equal to {SLOTS_MAX}"
            raise BadSetting(msg)
        settings = settings.model_copy(update={"slots": slots})
    if database_uri is not None:
        settings = settings.model_copy(update={"database_uri": SecretStr(database_uri)})
    # A process that leaves the graphs to another one leaves it the warnings too.
    log_as(settings, warnings if runs_graphs else [])
    if runs_graphs:
        config.apply_env()
    return Project(config, settings)


def settings_near(path: Path) -> Settings:
    """The settings for a command that needs no graphs; langgraph.json may be absent.

    Raises:
        BadSetting: a setting is wrong, or the file is there and wrong.
    """
    warnings: list[str] = []
    here = path / "langgraph.json" if path.is_dir() else path
    found = here.exists() or path != Path("langgraph.json")
    env = load_config(path, warn=lambda _: None).env if found else {}
    settings = Settings.from_env(fallback=env, warn=warnings.append)
    log_as(settings, warnings)
    return settings


def indexed_near(path: Path) -> Mapping[str, Sequence[str]]:
    """The paths that each graph's history is indexed by; none without langgraph.json.

    Raises:
        BadSetting: the file is there and wrong.
    """
    here = path / "langgraph.json" if path.is_dir() else path
    if not here.exists():
        return {}
    graphs = load_config(path, warn=lambda _: None).graphs
    return {graph.id: graph.policy.history for graph in graphs}


def log_as(settings: Settings, warnings: list[str]) -> None:
    """Sets logs up as the settings say, and writes the warnings so far."""
    configure_logs(level=settings.log_level, as_json=settings.log_json)
    for line in warnings:
        _log.warning(line)


def load(project: Project, *, needed: bool) -> GraphCatalogue:
    """Imports the project's graphs; it blocks as long as their modules do.

    Args:
        project: whose graphs.
        needed: whether the process is of no use without any.

    Raises:
        SetupError: none loads, and one is needed; the causes are named.
    """
    from threadmill.engine.graphs import load_graphs

    graphs = load_graphs(project.config)
    if not graphs.ids:
        causes = "; ".join(
            f"'{failed.graph_id}': {failed.cause}"
            for failed in graphs.failures.values()
        )
        msg = f"no graph of {project.config.path} loads ({causes})"
        if needed:
            raise SetupError(msg)
        _log.error("graphs.none_loads", problem=msg)
    return graphs


def require_slots(settings: Settings) -> None:
    """Refuses a worker that would run nothing.

    Raises:
        BadSetting: no slots.
    """
    if settings.slots == 0:
        msg = "THREADMILL_SLOTS is 0: a worker without slots runs nothing; set --slots"
        raise BadSetting(msg)


def refuse_auth(config: LangGraphConfig) -> None:
    """Refuses to serve openly what was meant to be protected.

    Raises:
        BadSetting: the file names handlers of authentication.
    """
    if "auth" in config.unused_keys:
        msg = (
            f"{config.path} sets 'auth', which this version does not carry out: every "
            "request would be served unauthenticated; remove the key if something "
            "else protects this server"
        )
        raise BadSetting(msg)
