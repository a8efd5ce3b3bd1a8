"""Threadmill: LangGraph graphs on stateless servers and interchangeable workers.

The package itself holds no behaviour, so that importing it costs nothing. It
promises ``__version__`` and a few names that are imported from their modules at first
use: ``PostgresSaver`` and ``RedisSaver``, the checkpoint savers for plain LangGraph
scripts, and for nodes ``effect``, ``effect_sync``, ``idempotency_key`` and the two
errors that belong to them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadmill.checkpoints.redis.saver import RedisSaver
    from threadmill.checkpoints.saver import PostgresSaver
    from threadmill.effects import (
        EffectNotDone,
        EffectUnknown,
        effect,
        effect_sync,
        idempotency_key,
    )

__all__ = [
    "EffectNotDone",
    "EffectUnknown",
    "PostgresSaver",
    "RedisSaver",
    "__version__",
    "effect",
    "effect_sync",
    "idempotency_key",
]

__version__ = "0.1.0"

_SAVERS = {
    "PostgresSaver": "threadmill.checkpoints.saver",
    "RedisSaver": "threadmill.checkpoints.redis.saver",
}


def __getattr__(name: str) -> object:
    """Return a name at first use, without loading its module before.

    Raises:
        AttributeError: for every other name.
    """
    if name in __all__:
        module = _SAVERS.get(name, "threadmill.effects")
        return getattr(import_module(module), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
