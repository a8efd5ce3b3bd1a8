"""Where a Redis URI leads: one server, a Sentinel's master, or a Cluster.

::

    redis://[user:password@]host[:port][/database]
    redis+sentinel://[user:password@]host[:port],host[:port]/master[/database]
    redis+cluster://[user:password@]host[:port],host[:port]

`rediss` in the place of `redis` means TLS. After a question mark: `ssl_ca_certs`,
`ssl_certfile` and `ssl_keyfile` name files; `sentinel_password` is the Sentinels' own.

No message, `repr` or `str` of this module shows a password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from threadmill.errors import BadSetting

Kind = Literal["server", "sentinel", "cluster"]

_KINDS: Final[dict[str, Kind]] = {
    "": "server",
    "sentinel": "sentinel",
    "cluster": "cluster",
}
_PORTS: Final[dict[Kind, int]] = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class Target:
    """A URI, taken apart.

    Args:
        kind: what stands at the hosts.
        hosts: one server, all Sentinels, or some nodes of a Cluster.
        master: the name that Sentinels know the server by.
        files: of TLS, by the name that they have in the URI.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    database: int = 0
    master: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    files: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """How errors name it."""
        hosts = ", ".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.master} at {hosts}" if self.master else hosts


def target_of(uri: str) -> Target:
    """The target of a URI.

    Raises:
        BadSetting: it cannot be read; what it holds is not shown.
    """
    # Outside of any except block: the parsers' errors hold what they parsed.
    found = _parsed(uri)
    if found is None:
        msg = (
            "the Redis URI cannot be read; write redis://user:password@host:port/0,"
            " redis+sentinel://host:port,host:port/master/0 or"
            " redis+cluster://host:port,host:port (rediss for TLS), with the user and"
            " the password percent-encoded (@ as %40, / as %2F, : as %3A)"
        )
        raise BadSetting(msg)
    return found


def _parsed(uri: str) -> Target | None:
    try:
        parts = urlsplit(uri)
        base, _, suffix = parts.scheme.partition("+")
        kind = _KINDS[suffix]
        credentials, _, hosts = parts.netloc.rpartition("@")
        if base not in {"redis", "rediss"} or not hosts or "@" in credentials:
            return None
        username, _, password = credentials.partition(":")
        master, database = _path(kind, parts)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        if query.keys() - {*_FILES, "sentinel_password"}:
            return None
        return Target(
            kind=kind,
            hosts=tuple(_host(host, _PORTS[kind]) for host in hosts.split(",")),
            tls=base == "rediss",
            database=database,
            master=master,
            username=unquote(username) or None,
            password=unquote(password) or None,
            sentinel_password=query.pop("sentinel_password", None),
            files=tuple(query.items()),
        )
    except (KeyError, IndexError, ValueError):
        return None


def _path(kind: Kind, parts: SplitResult) -> tuple[str, int]:
    names = [unquote(name) for name in parts.path.split("/") if name]
    master = names.pop(0) if kind == "sentinel" else ""
    database = int(names.pop(0)) if names else 0
    if names or database < 0 or (kind == "cluster" and database):
        raise ValueError
    return master, database


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or port
