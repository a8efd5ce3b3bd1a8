"""Threadmill: LangGraph graphs on stateless servers and interchangeable workers.

The package itself holds no behaviour, so that importing it costs nothing. It
promises two names: ``__version__`` and ``PostgresSaver``, the checkpoint saver for
plain LangGraph scripts, which is imported from its module at first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadmill.checkpoints.saver import PostgresSaver

__all__ = ["PostgresSaver", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Return ``PostgresSaver`` at first use, without loading it before.

    Raises:
        AttributeError: for every other name.
    """
    if name == "PostgresSaver":
        from threadmill.checkpoints.saver import PostgresSaver

        return PostgresSaver
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
