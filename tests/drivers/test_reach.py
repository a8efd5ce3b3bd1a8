"""Waiting for a database: bounded, told, and without secrets."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import structlog
from structlog.testing import capture_logs

from threadmill.checkpoints.saver import PostgresSaver
from threadmill.drivers.postgres.database import Limits, connection_info
from threadmill.drivers.postgres.reach import (
    Outage,
    address,
    lead_to_one_database,
    reach,
)
from threadmill.errors import BadSetting, StoreUnavailable


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


def _as(uri: str, name: str, password: str) -> str:
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{name}:{password}@{host}").geturl()


async def test_a_refusal_by_the_server_is_final_and_passed_on(
    postgres_server: str,
) -> None:
    nothing = urlsplit(postgres_server)._replace(path="/nothing").geturl()
    with pytest.raises(
        StoreUnavailable, match='refuses: database "nothing" does not exist; check URI'
    ):
        await reach(nothing, limits=Limits(), on_retry=_never, setting="URI")
    stranger = _as(postgres_server, "nobody-of-ours", "secret")
    with pytest.raises(StoreUnavailable, match="refuses: ") as caught:
        await reach(stranger, limits=Limits(), on_retry=_never)
    assert "secret" not in str(caught.value)


async def test_two_ways_to_one_database_are_told_from_two_databases(
    database_uri: str, postgres_uri: str
) -> None:
    limits = Limits()
    other_name = (
        f"{database_uri}{'&' if '?' in database_uri else '?'}application_name=other"
    )
    assert await lead_to_one_database(database_uri, other_name, limits=limits)
    assert not await lead_to_one_database(database_uri, postgres_uri, limits=limits)


def test_an_outage_is_told_once_with_its_reason_and_once_when_it_is_over() -> None:
    with capture_logs() as logs:
        outage = Outage(structlog.get_logger(), "way", first_pause_seconds=0.5)
        pauses = [outage.broke(OSError("no route")) for _ in range(5)]
        outage.over()
        outage.over()
        assert outage.broke(TimeoutError()) == 0.5
    assert pauses == [0.5, 1, 2, 2, 2]
    assert [(log["event"], log.get("cause")) for log in logs] == [
        ("way.broken", "no route"),
        ("way.recovered", None),
        ("way.broken", "no answer in time"),
    ]


async def test_a_host_that_is_not_known_is_told() -> None:
    uri = "postgresql://me:secret@no-such-host.invalid/db"
    with pytest.raises(StoreUnavailable, match=r"no-such-host\.invalid:5432/db"):
        await reach(uri, limits=Limits(), on_retry=_never, patience_seconds=0)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@host/db", "host:5432/db"),
        ("postgresql://me:secret@one:1,two:2/db", "one,two:1,2/db"),
        (
            "postgresql:///db?host=/run/pg&password=secret",
            "the socket /run/pg/.s.PGSQL.5432, database db",
        ),
        ("postgresql:///db?port=1", "the local socket of port 1, database db"),
        ("postgresql://me:se/cret@host/db", "an address that cannot be read"),
        ("postgresql://me:se@cret@host/db", "an address that cannot be read"),
        ("postgresql://me:secret@[::1/db", "an address that cannot be read"),
    ],
)
def test_an_address_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, uri: str, shown: str
) -> None:
    for name in ("PGHOST", "PGPORT"):
        monkeypatch.delenv(name, raising=False)
    assert address(uri) == shown


async def test_no_driver_takes_a_uri_that_can_be_misread() -> None:
    """Also where no setting was checked before: `PostgresSaver.from_conn_string`."""
    uri = "postgresql://me:se/cret@127.0.0.1:1/db"
    with pytest.raises(BadSetting, match="percent-encode") as caught:
        async with PostgresSaver.from_conn_string(uri):
            pass
    assert "cret" not in str(caught.value)
    assert connection_info("host=h password=a@b/c", name="", limits=Limits())


@pytest.mark.parametrize("setting", ["DATABASE_URI", "DATABASE_URI_DIRECT"])
async def test_a_uri_that_is_none_is_a_setting_to_mend(setting: str) -> None:
    """Nothing that a retry could do anything about."""
    uri = "postgresql://me:secret@host/db?nonsense=1"
    with pytest.raises(BadSetting, match=f"^{setting} is not") as caught:
        await reach(uri, limits=Limits(), on_retry=_never, setting=setting)
    assert "secret" not in str(caught.value)


def _never(reason: str) -> None:
    pytest.fail(f"tried again: {reason}")
