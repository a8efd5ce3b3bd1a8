"""LangGraph's configs and tuples on one side, our keys and records on the other.

Every saver speaks LangGraph's dictionaries; this is the only place that reads and
makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import CheckpointTuple, get_checkpoint_metadata

from threadmill.errors import InvalidRequest

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
    )

    from threadmill.checkpoints.base import Stored


@dataclass(frozen=True, slots=True)
class Address:
    """Which checkpoint a config names.

    Args:
        ns: checkpoint namespace; None when the config leaves it open, which means
            the root for one checkpoint and every namespace for a list.
        checkpoint_id: None means the head.
    """

    thread_id: str
    ns: str | None
    checkpoint_id: str | None


def address(config: RunnableConfig) -> Address:
    """The address in `config["configurable"]`.

    Raises:
        InvalidRequest: thread_id is missing or not a string, or something holds a NUL
            character, which PostgreSQL cannot store.
    """
    configurable: dict[str, Any] = config.get("configurable") or {}
    if "thread_id" not in configurable:
        msg = (
            "the config names no thread; pass "
            '{"configurable": {"thread_id": "..."}} with every call'
        )
        raise InvalidRequest(msg)
    return Address(
        thread_id=thread_key(configurable["thread_id"]),
        ns=_text("checkpoint_ns", configurable.get("checkpoint_ns")),
        checkpoint_id=_text("checkpoint_id", configurable.get("checkpoint_id")) or None,
    )


def thread_key(thread_id: object) -> str:
    """`thread_id`, if it can be one.

    Raises:
        InvalidRequest: it is not a string, is empty, or holds a NUL character.
    """
    text = _text("thread_id", thread_id)
    if not text:
        msg = "thread_id is empty; pass a string that names the thread"
        raise InvalidRequest(msg)
    return text


def _text(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        msg = (
            f"{name} must be a string, not {type(value).__name__}; "
            f"pass str({name}) in config['configurable']"
        )
        raise InvalidRequest(msg)
    if "\x00" in value:
        msg = f"{name} holds a NUL character, which PostgreSQL cannot store"
        raise InvalidRequest(msg)
    return value


def config_of(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    """The config that names one checkpoint, in LangGraph's shape."""
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": ns,
            "checkpoint_id": checkpoint_id,
        }
    }


def tuple_of(stored: Stored) -> CheckpointTuple:
    """`stored` as LangGraph wants it."""
    ns, parent = stored.ns, stored.parent_id
    return CheckpointTuple(
        config=config_of(stored.thread_id, ns, stored.checkpoint["id"]),
        checkpoint=stored.checkpoint,
        metadata=stored.metadata,
        parent_config=config_of(stored.thread_id, ns, parent) if parent else None,
        pending_writes=list(stored.writes),
    )


def untouched(
    checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
) -> frozenset[str]:
    """The channels whose values are those that were read with the parent.

    LangGraph gives each channel that it changes a new version. What a node changes in
    place has none, so a checkpoint that follows on nodes tells nothing. That of an
    input does: nobody has had the values since they were read.
    """
    if metadata.get("source") != "input":
        return frozenset()
    return frozenset(checkpoint["channel_values"].keys() - new_versions.keys())


def metadata_of(
    config: RunnableConfig, metadata: CheckpointMetadata
) -> CheckpointMetadata:
    """`metadata` with what LangGraph keeps of the config (run_id, graph_id, ...)."""
    return get_checkpoint_metadata(config, metadata)
