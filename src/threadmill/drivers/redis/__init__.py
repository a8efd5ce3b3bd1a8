"""Connections to Redis and Valkey: where they lead, scripts, errors, start-up checks.

Only this package imports the client library, an optional extra
(`pip install threadmill[redis]`).
"""
