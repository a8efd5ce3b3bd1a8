"""Settings are read once, checked together, and named when they are wrong."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from threadmill.errors import BadSetting
from threadmill.settings import Settings, describe

SECRET = "correct-horse"
URI = f"postgresql://app:{SECRET}@db.example:5432/threadmill"


def read(environ: dict[str, str], fallback: dict[str, str] | None = None) -> Settings:
    """Reads settings and demands that nothing was warned about."""
    warned: list[str] = []
    settings = Settings.from_env(environ, fallback=fallback, warn=warned.append)
    assert warned == []
    return settings


def failure(environ: dict[str, str]) -> str:
    with pytest.raises(BadSetting) as caught:
        Settings.from_env(environ, warn=lambda _: None)
    return str(caught.value)


def test_the_defaults_are_those_of_the_reference_page() -> None:
    settings = read({})
    assert settings.database_uri is None
    assert settings.dispatch == "burst"
    assert settings.slots == 10
    assert (settings.lease_seconds, settings.renew_seconds) == (10, 3)
    assert settings.drain_grace_seconds == 180
    assert settings.payload_bytes_max == 32 * 1024 * 1024
    assert settings.recursion_limit == 10_011
    assert settings.cors_allow_origins == ("*",)


def test_the_constructor_ignores_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SLOTS", "slots", "THREADMILL_SLOTS"):
        monkeypatch.setenv(name, "77")
    assert Settings().slots == 10


def test_without_an_argument_the_process_environment_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THREADMILL_SLOTS", "7")
    assert Settings.from_env().slots == 7


def test_every_setting_is_read_from_each_of_its_names() -> None:
    samples = {
        "URI (secret)": URI,
        "burst, node": "node",
        "chunks, whole": "whole",
        "DEBUG, INFO, WARNING, ERROR, CRITICAL": "error",
        "true, false": "false",
        "whole number": "2",
        "seconds": "20",
        "bytes": "4096",
    }
    others = {
        "CORS_ALLOW_ORIGINS": "https://a.example",
        "MOUNT_PREFIX": "/api",
        "BROKER_URI": "redis://a.example",
        "CHECKPOINT_URI": "redis://b.example",
        "STREAM_URI": "redis://c.example",
        "THREADMILL_CHECKPOINT_VOLATILE": "true",
        "THREADMILL_CHECKPOINT_ARCHIVE": "true",
    }
    wide_lease = {"THREADMILL_LEASE_SECONDS": "60"}
    needs = {"THREADMILL_CHECKPOINT_ARCHIVE": {"CHECKPOINT_URI": "redis://a.example"}}
    for setting in describe():
        for name in setting.names:
            value = others.get(name) or samples[setting.type]
            others_set = needs.get(name, {})
            settings = Settings.from_env({**wide_lease, **others_set, name: value})
            assert getattr(settings, setting.field) != getattr(
                Settings(), setting.field
            ), name


@pytest.mark.parametrize(
    ("canonical", "alias", "field"),
    [
        ("DATABASE_URI", "POSTGRES_URI", "database_uri"),
        ("THREADMILL_SLOTS", "N_JOBS_PER_WORKER", "slots"),
        (
            "THREADMILL_PAYLOAD_BYTES_MAX",
            "HTTP_MAX_REQUEST_BODY_BYTES",
            "payload_bytes_max",
        ),
    ],
)
def test_two_names_of_one_setting_that_differ_are_reported_without_the_values(
    canonical: str, alias: str, field: str
) -> None:
    values = ("4097", "4098")
    if field == "database_uri":
        values = (URI, "postgresql://other-secret@h/d")
    warned: list[str] = []
    settings = Settings.from_env(
        {canonical: values[0], alias: values[1]}, warn=warned.append
    )
    assert getattr(settings, field) == getattr(
        Settings.from_env({canonical: values[0]}), field
    )
    assert warned == [
        f"{canonical} and {alias} differ; {canonical} is used, remove the other"
    ]


def test_an_empty_value_counts_as_unset_and_spaces_are_cut() -> None:
    settings = read({"THREADMILL_SLOTS": " ", "DATABASE_URI": f" {URI}\n"})
    assert settings.slots == 10
    assert settings.database_uri is not None
    assert settings.database_uri.get_secret_value() == URI


def test_the_real_environment_wins_over_the_file_whatever_the_alias() -> None:
    settings = read(
        {"POSTGRES_URI": URI, "THREADMILL_SLOTS": "4"},
        fallback={
            "DATABASE_URI": "postgresql://file@h/d",
            "THREADMILL_SLOTS": "5",
            "THREADMILL_ATTEMPTS_MAX": "6",
        },
    )
    assert settings.database_uri is not None
    assert settings.database_uri.get_secret_value() == URI
    assert (settings.slots, settings.attempts_max) == (4, 6)


def test_a_wrong_value_names_its_variable_and_the_default() -> None:
    assert failure({"THREADMILL_SLOTS": "ten"}) == (
        "THREADMILL_SLOTS='ten': it should be a valid integer, unable to parse string"
        " as an integer; unset it to use the default (10)"
    )
    assert failure({"N_JOBS_PER_WORKER": "-1"}).startswith("N_JOBS_PER_WORKER='-1': ")


def test_a_wrong_value_of_the_file_says_so() -> None:
    with pytest.raises(BadSetting) as caught:
        Settings.from_env({}, fallback={"THREADMILL_SLOTS": "x"})
    name = "THREADMILL_SLOTS='x' in the env of langgraph.json: "
    assert str(caught.value).startswith(name)


def test_all_wrong_values_are_listed_one_line_each() -> None:
    message = failure({"THREADMILL_SLOTS": "x", "LOG_LEVEL": "loud", "LOG_JSON": "?"})
    head, *lines = message.splitlines()
    assert head == "3 settings are wrong:"
    names = [line.strip().partition("=")[0] for line in lines]
    assert names == ["THREADMILL_SLOTS", "LOG_JSON", "LOG_LEVEL"]


@pytest.mark.parametrize("value", ["inf", "nan", "0", "-1", "1e9", "3 s", "soon"])
def test_a_duration_is_a_positive_finite_number(value: str) -> None:
    assert "THREADMILL_LOCK_TIMEOUT_SECONDS=" in failure(
        {"THREADMILL_LOCK_TIMEOUT_SECONDS": value}
    )


def test_a_renewal_must_fit_twice_into_the_lease() -> None:
    assert failure({"THREADMILL_RENEW_SECONDS": "5"}) == (
        "THREADMILL_RENEW_SECONDS=5: it must be less than half of"
        " THREADMILL_LEASE_SECONDS (10), or one late renewal loses the lease"
    )
    fitting = {"THREADMILL_RENEW_SECONDS": "5", "THREADMILL_LEASE_SECONDS": "10.1"}
    assert read(fitting).renew_seconds == 5


def test_the_pool_cannot_be_smaller_than_its_minimum() -> None:
    assert failure({"THREADMILL_POOL_MIN": "11"}) == (
        "THREADMILL_POOL_MIN=11: it must not be more than THREADMILL_POOL_MAX (10)"
    )


@pytest.mark.parametrize(
    "uri", [f"mysql://u:{SECRET}@h/d", f"postgresql+asyncpg://u:{SECRET}@h/d", SECRET]
)
def test_a_database_uri_is_refused_without_being_shown(uri: str) -> None:
    for name in ("DATABASE_URI", "POSTGRES_URI", "DATABASE_URI_DIRECT"):
        message = failure({name: uri})
        assert message == (
            f"{name}: it must begin with postgresql:// (a driver suffix is not"
            " understood)"
        )


@pytest.mark.parametrize(
    "password", ["a/b", "a@b", "a:b/c@d", "1234/5", "@", "a@b/c", "a/b?c=d"]
)
def test_a_password_that_is_not_escaped_is_refused_without_being_shown(
    password: str,
) -> None:
    """Libpq would take a part of it for the host, and show that in its errors."""
    for name in ("DATABASE_URI", "DATABASE_URI_DIRECT"):
        message = failure({name: f"postgresql://app:{password}@db.example/threadmill"})
        assert message.startswith(f"{name}: ")
        assert "percent-encode" in message
        assert "db.example" not in message
        assert password not in message.replace("@ as %40, / as %2F", "")


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://app:a%40b%2Fc@db.example/threadmill",
        "postgres://app:a?b#c@db.example:5432/threadmill?sslmode=require",
        "postgresql://app:a@one:1,two:2,[::1]:3/threadmill",
        "postgresql://app:a@/threadmill?host=/run/pg&port=1",
        "postgresql:///threadmill?user=app@domain",
        "postgresql://",
    ],
)
def test_every_uri_that_says_where_its_host_begins_is_taken(uri: str) -> None:
    assert read({"DATABASE_URI": uri}).database_uri is not None


@pytest.mark.parametrize(
    "name",
    [
        "THREADMILL_SLOTS",
        "THREADMILL_QUEUE_PER_THREAD_MAX",
        "THREADMILL_ATTEMPTS_MAX",
        "THREADMILL_POOL_MIN",
        "THREADMILL_POOL_MAX",
        "LANGGRAPH_DEFAULT_RECURSION_LIMIT",
        "BG_JOB_TIMEOUT_SECS",
        "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS",
        "RESUMABLE_STREAM_TTL_SECONDS",
        "THREADMILL_IDEMPOTENCY_TTL_SECONDS",
        "THREADMILL_STATELESS_TTL_SECONDS",
    ],
)
def test_a_number_that_nothing_can_hold_is_refused_by_its_name(name: str) -> None:
    message = failure({name: "99999999999999999999"})
    assert message.startswith(f"{name}=")
    assert "less than or equal to" in message


def test_no_error_carries_the_secret_in_its_chain() -> None:
    with pytest.raises(BadSetting) as caught:
        Settings.from_env({"DATABASE_URI": URI, "THREADMILL_SLOTS": "x"})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    with pytest.raises(ValidationError) as direct:
        Settings(database_uri=f"mysql://{SECRET}")
    assert SECRET not in str(direct.value)


def test_a_repr_hides_the_database_uri() -> None:
    settings = read({"DATABASE_URI": URI, "DATABASE_URI_DIRECT": URI})
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().slots = 3  # type: ignore[misc]


def test_an_unknown_setting_is_reported_with_the_closest_name() -> None:
    warned: list[str] = []
    environ = {
        "THREADMILL_SLOT": "1",
        "threadmill_slots": "1",
        "THREADMILL_XYZZY": "1",
        "THREADMILL_FAULTS": "reserved",
        "OTHER": "1",
    }
    settings = Settings.from_env(
        environ, fallback={"THREADMILL_LEASE_SECOND": "1"}, warn=warned.append
    )
    assert settings.slots == 10
    for line, name, advice in zip(
        warned,
        (
            "THREADMILL_SLOT is no setting",
            "THREADMILL_XYZZY is no setting",
            "threadmill_slots is no setting",
            "THREADMILL_LEASE_SECOND in the env of langgraph.json is no setting",
        ),
        (
            "did you mean THREADMILL_SLOTS?",
            "see docs/reference/settings.md for those that exist",
            "did you mean THREADMILL_SLOTS?",
            "did you mean THREADMILL_LEASE_SECONDS?",
        ),
        strict=True,
    ):
        assert line == f"{name}; {advice}"


def test_a_misspelt_name_is_logged_when_nobody_takes_the_warnings() -> None:
    with capture_logs() as logs:
        Settings.from_env({"THREADMILL_SLOT": "1"})
    assert [(log["log_level"], log["event"]) for log in logs] == [
        ("warning", "THREADMILL_SLOT is no setting; did you mean THREADMILL_SLOTS?")
    ]


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("*", ("*",)),
        ("https://a.example", ("https://a.example",)),
        (
            "https://a.example, http://b:3000",
            ("https://a.example", "http://b:3000"),
        ),
    ],
)
def test_origins_are_a_comma_separated_list(
    value: str, origins: tuple[str, ...]
) -> None:
    assert read({"CORS_ALLOW_ORIGINS": value}).cors_allow_origins == origins


@pytest.mark.parametrize("value", ["a.example", "https://a.example/", ",", "://a"])
def test_an_origin_that_no_browser_sends_is_refused(value: str) -> None:
    assert "CORS_ALLOW_ORIGINS=" in failure({"CORS_ALLOW_ORIGINS": value})


def test_the_mount_prefix_has_a_slash_before_and_none_behind() -> None:
    assert read({"MOUNT_PREFIX": "/api/"}).mount_prefix == "/api"
    assert read({"MOUNT_PREFIX": "/"}).mount_prefix == ""
    assert "write /api" in failure({"MOUNT_PREFIX": "api"})


def test_every_setting_is_described() -> None:
    described = list(describe())
    names = [name for setting in described for name in setting.names]
    assert len(names) == len(set(names))
    assert [d.field for d in described] == list(Settings.model_fields)
    assert all(d.description and d.type and d.default for d in described)
    numbers = {"whole number", "seconds", "bytes"}
    assert all((d.type in numbers) == (d.bounds != "none") for d in described)


@given(
    st.dictionaries(
        st.sampled_from([n for d in describe() for n in d.names]),
        st.text(max_size=80),
    )
)
def test_any_environment_gives_settings_or_one_bad_setting(
    environ: dict[str, str],
) -> None:
    message = ""
    try:
        Settings.from_env(environ, warn=lambda _: None)
    except BadSetting as error:
        message = str(error)
    given = {name for name, value in environ.items() if value.strip()}
    assert not message or any(name in message for name in given)


def test_the_environment_is_left_alone() -> None:
    before = dict(os.environ)
    read({"THREADMILL_SLOTS": "3"})
    assert dict(os.environ) == before
