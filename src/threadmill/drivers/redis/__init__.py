"""Connections to Redis and Valkey: where they lead, scripts, errors, start-up checks.

Only this package imports the client library, which is an optional extra.

Raises:
    SetupError: it is not installed.
"""

from importlib.util import find_spec

from threadmill.errors import SetupError

if find_spec("redis") is None:
    msg = "Redis needs a client library; install it: pip install 'threadmill[redis]'"
    raise SetupError(msg)
