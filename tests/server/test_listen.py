"""Taking an address: the errors name what to change, the URL leads back to it."""

from __future__ import annotations

import socket
from contextlib import closing

import httpx
import pytest

from threadmill.errors import SetupError
from threadmill.server.process import listen, url_of


def test_a_taken_port_is_told_with_the_option_that_changes_it() -> None:
    with closing(listen("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SetupError, match=f":{port}: address already in use.*--here"
        ):
            listen("127.0.0.1", port, option="--here")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_told(host: str) -> None:
    with pytest.raises(SetupError, match=f"{host}:0: .*address of this machine"):
        listen(host, 0)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")],  # noqa: S104
)
def test_the_url_leads_to_the_listener(host: str, shown: str) -> None:
    with closing(listen(host, 0)) as listener:
        port = listener.getsockname()[1]
        url = url_of(listener, "/api")
        assert url == f"http://{shown}:{port}/api"
        parts = httpx.URL(url)
        socket.create_connection((parts.host, port), timeout=10).close()
