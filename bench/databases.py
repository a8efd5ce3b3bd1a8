"""Databases of a benchmark's server, one for each contender."""

from __future__ import annotations

from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from threadmill.drivers.embedded import EmbeddedPostgres
from threadmill.drivers.postgres.migrate import migrate


async def new_database(
    server: EmbeddedPostgres, name: str, port: int | None = None
) -> str:
    """Makes a database and its schema; LangGraph's own saver makes its tables itself.

    Args:
        server: started.
        name: of the contender.
        port: through which the database is reached, if not the server's own.

    Returns:
        The superuser's URI.
    """
    database = f"bench_{name.replace('-', '_')}_{port or 'direct'}"
    async with await psycopg.AsyncConnection.connect(
        server.tcp_uri, autocommit=True
    ) as admin:
        await admin.execute(
            sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database))
        )
    uri = server.tcp_uri.rsplit("/", 1)[0] + f"/{database}"
    if name != "in-process":
        await migrate(uri)
    if port is not None:
        own = urlsplit(server.tcp_uri).port
        uri = uri.replace(f":{own}/", f":{port}/")
    return uri
