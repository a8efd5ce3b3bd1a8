"""Merging LangGraph configurations, and what clients may put into them.

A configuration is LangGraph's `RunnableConfig` in JSON: `configurable`, `metadata`,
`tags`, `recursion_limit` and a few more. Keys of `configurable` that begin with two
underscores are LangGraph's own and never come from outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from threadmill.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from threadmill.stores.records import Json, Run

# Where in a thread; said by the request itself, not by its configuration.
POSITION: Final = ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map")
_TAKEN: Final = ("metadata", "tags", "recursion_limit", "max_concurrency", "run_name")


def check_config(config: Mapping[str, Any]) -> None:
    """Refuses a configuration that no graph could be run with.

    Raises:
        InvalidRequest: naming the key.
    """
    for key in ("configurable", "metadata"):
        if not isinstance(config.get(key) or {}, dict):
            raise InvalidRequest(f"config.{key} must be an object")
    tags = config.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidRequest("config.tags must be a list of strings")
    for key in ("recursion_limit", "max_concurrency"):
        limit = config.get(key)
        if limit is not None and (type(limit) is not int or limit < 1):
            raise InvalidRequest(f"config.{key} must be an integer above 0")


def own_config(config: Json) -> Json:
    """The client's part of a checked `config`.

    Keys that LangGraph does not take from clients (callbacks, ...) are left out.
    """
    own = {k: config[k] for k in _TAKEN if config.get(k) is not None}
    return {**own, "configurable": own_keys(config)}


def own_keys(config: Mapping[str, Any]) -> Json:
    """The part of `configurable` that is the client's own business."""
    configurable = config.get("configurable") or {}
    return {
        key: value
        for key, value in configurable.items()
        if key not in POSITION and not key.startswith("__")
    }


def merge_config(below: Mapping[str, Any], above: Mapping[str, Any]) -> Json:
    """Both configurations; where they differ, `above` wins key by key."""
    merged = {**below, **above}
    for key in ("configurable", "metadata"):
        merged[key] = {**(below.get(key) or {}), **(above.get(key) or {})}
    tags = [*(below.get("tags") or []), *(above.get("tags") or [])]
    if tags:
        merged["tags"] = list(dict.fromkeys(tags))
    return merged


def metadata_of(run: Run) -> Json:
    """What a run's callback handlers are told of it, and its checkpoints keep."""
    config = run.kwargs.get("config") or {}
    return {
        **(config.get("metadata") or {}),
        **run.metadata,
        "run_id": str(run.run_id),
        "thread_id": str(run.thread_id),
        "graph_id": run.graph_id,
        "assistant_id": str(run.assistant_id),
    }


def check_command(command: Mapping[str, Any]) -> None:
    """Refuses a command that LangGraph's `Command` cannot be made of.

    Raises:
        InvalidRequest: naming the part.
    """
    update, goto = command.get("update"), command.get("goto")
    if not (update is None or isinstance(update, dict) or _is_pairs(update)):
        raise InvalidRequest(
            "command.update must be an object, or a list of [channel, value]"
        )
    for target in goto if isinstance(goto, list) else [goto]:
        if not (target is None or isinstance(target, str) or _is_send(target)):
            raise InvalidRequest(
                'command.goto must be a node\'s name, {"node": name, "input": ...}, or '
                "a list of those"
            )


def _is_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in value
    )


def _is_send(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("node"), str)
