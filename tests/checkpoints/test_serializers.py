"""Savers with another serializer than LangGraph's default: encrypting, or strict."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from tests.checkpoints import graphs
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.saver import PostgresSaver
from threadmill.drivers.postgres.database import Database
from threadmill.testing.checkpoints import checkpoint

pytestmark = pytest.mark.langgraph


def _config() -> Any:
    return {"configurable": {"thread_id": str(uuid4()), "checkpoint_ns": ""}}


class Shift:
    """A cipher for LangGraph's `EncryptedSerializer`; not one to keep secrets with."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        """Shift every byte."""
        return "shift", bytes((byte + 1) % 256 for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        """Shift every byte back."""
        assert ciphername == "shift"
        return bytes((byte - 1) % 256 for byte in ciphertext)


async def test_a_serializer_of_one_s_own_is_used_for_everything(
    database: Database, database_uri: str
) -> None:
    serde = EncryptedSerializer(Shift())
    config = _config()
    async with PostgresSaver.from_conn_string(database_uri, serde=serde) as saver:
        stored = await saver.aput(config, checkpoint("c1", name="secret"), {}, {})
        await saver.aput_writes(stored, [("channel", "secret")], "t1")
        found = await saver.aget_tuple(config)
    assert found is not None
    assert found.checkpoint["channel_values"] == {"name": "secret"}
    assert found.pending_writes == [("t1", "channel", "secret")]
    with psycopg.connect(database_uri) as connection:
        rows = connection.execute(
            "SELECT body FROM threadmill.checkpoint"
            " UNION ALL SELECT value FROM threadmill.checkpoint_write"
        ).fetchall()
    assert len(rows) == 2
    assert not [body for (body,) in rows if b"secret" in body]
    shared = PostgresSaver(PostgresCheckpoints(database), serde=serde)
    assert await shared.aget_tuple(config) == found


async def test_a_serializer_that_encrypts_does_so_for_what_is_shared(
    database: Database, database_uri: str
) -> None:
    """Its lists are not taken apart, and nothing of them is named by its content."""
    saver = PostgresSaver(
        PostgresCheckpoints(database), serde=EncryptedSerializer(Shift())
    )
    config = _config()
    values = {"list": ["secret"] * 500, "text": "secret " * 500, "short": "secret"}
    await saver.aput(config, checkpoint("c1", **values), {}, {})
    found = await saver.aget_tuple(config)
    assert found is not None
    assert found.checkpoint["channel_values"] == values
    with psycopg.connect(database_uri) as connection:
        types = connection.execute("SELECT type FROM threadmill.chunk").fetchall()
        rows = connection.execute(
            "SELECT data FROM threadmill.chunk"
            " UNION ALL SELECT body FROM threadmill.checkpoint"
        ).fetchall()
    assert {kind.partition("+zstd")[0] for (kind,) in types} == {"msgpack+shift"}
    assert not [data for (data,) in rows if b"secret" in data]


async def test_a_clone_may_load_what_its_graph_allows(database_uri: str) -> None:
    """LangGraph's strict mode: other types come back as plain data."""
    strict = JsonPlusSerializer(allowed_msgpack_modules=None)
    config = _config()
    state = graphs.Conversation(messages=[], user_id="u")
    async with PostgresSaver.from_conn_string(database_uri, serde=strict) as saver:
        await saver.aput(config, checkpoint("c1", state=state), {}, {})
        clone = saver.with_allowlist([(graphs.__name__, "Conversation")])
        blocked = await saver.aget_tuple(config)
        allowed = await clone.aget_tuple(config)
    assert blocked is not None
    assert allowed is not None
    assert allowed.checkpoint["channel_values"]["state"] == state
    assert blocked.checkpoint["channel_values"]["state"] == state.model_dump()
