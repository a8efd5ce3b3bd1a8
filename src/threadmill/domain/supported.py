"""What a release runs on."""

from __future__ import annotations

from typing import Final

# PostgreSQL's major versions that the tests run on. The least is asked for, a newer one
# than the last only told of.
POSTGRES_MIN: Final = 15
POSTGRES_MAX: Final = 18
