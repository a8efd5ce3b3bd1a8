"""What is stored of a client's idempotency key."""

from __future__ import annotations

import hashlib


def stored_key(key: str) -> str:
    """A digest: timers name it, and those are seen across tenants."""
    return hashlib.sha256(key.encode()).hexdigest()
