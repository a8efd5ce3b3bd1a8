"""Whose data something is."""

from __future__ import annotations

from typing import Final

#: This version's servers have no other.
DEFAULT_TENANT: Final = "default"
