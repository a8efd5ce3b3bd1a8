"""Waiting for a database: bounded, told, and without secrets."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from threadmill.drivers.postgres.database import Limits
from threadmill.drivers.postgres.reach import address, reach
from threadmill.errors import StoreUnavailable


async def test_a_database_that_answers_is_reached_at_once(postgres_uri: str) -> None:
    told: list[str] = []
    await reach(postgres_uri, limits=Limits(), on_retry=told.append)
    assert told == []


async def test_every_refusal_is_told_and_the_last_one_is_the_error() -> None:
    told: list[str] = []
    with pytest.raises(StoreUnavailable) as caught:
        await reach(
            "postgresql://me:secret@127.0.0.1:1/db",
            limits=Limits(),
            on_retry=told.append,
            patience_seconds=0.3,
        )
    assert told == ["Connection refused"]
    assert "127.0.0.1:1/db" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_what_the_server_says_is_passed_on(postgres_server: str) -> None:
    uri = urlsplit(postgres_server)._replace(path="/nothing").geturl()
    with pytest.raises(StoreUnavailable, match='database "nothing" does not exist'):
        await reach(uri, limits=Limits(), on_retry=_never, patience_seconds=0)


async def test_a_host_that_is_not_known_is_told() -> None:
    uri = "postgresql://me:secret@no-such-host.invalid/db"
    with pytest.raises(StoreUnavailable, match=r"no-such-host\.invalid:5432/db"):
        await reach(uri, limits=Limits(), on_retry=_never, patience_seconds=0)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@host/db", "host:5432/db"),
        ("postgresql://me:secret@one:1,two:2/db", "one,two:1,2/db"),
        ("postgresql:///db?host=/run/pg&password=secret", "/run/pg:5432/db"),
        ("postgresql://me:secret@[::1/db", "an address that cannot be read"),
    ],
)
def test_an_address_holds_no_secret(uri: str, shown: str) -> None:
    assert address(uri) == shown


def _never(reason: str) -> None:
    pytest.fail(f"tried again: {reason}")
