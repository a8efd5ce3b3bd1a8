"""Threadmill: LangGraph graphs on stateless servers and interchangeable workers.

The package itself holds no behaviour, so that importing it costs nothing. It
promises ``__version__`` and a few names that are imported from their modules at first
use: ``PostgresSaver``, the checkpoint saver for plain LangGraph scripts, and for nodes
``effect``, ``effect_sync``, ``idempotency_key`` and the two errors that belong to them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    "__version__",
    "effect",
    "effect_sync",
    "idempotency_key",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Return a name at first use, without loading its module before.

    Raises:
        AttributeError: for every other name.
    """
    if name in __all__:
        saver = name == "PostgresSaver"
        module = "threadmill.checkpoints.saver" if saver else "threadmill.effects"
        return getattr(import_module(module), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
