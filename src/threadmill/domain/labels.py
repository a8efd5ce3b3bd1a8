"""Labels: what a worker has, and what a graph or a node needs.

A worker may take whatever needs no label that it does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from threadmill.errors import BadSetting

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,62}")


def labels(given: object, where: str) -> tuple[str, ...]:
    """Checked labels, sorted, each once.

    Args:
        given: a list of strings.
        where: who gives them, for the error.

    Raises:
        BadSetting: it is no list, or one of them is no label.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise BadSetting(f'{where} must be a list of labels, such as ["gpu"]')
    found = list(given)
    for label in found:
        if not isinstance(label, str) or _LABEL.fullmatch(label) is None:
            raise BadSetting(
                f"{where}: {label!r} is no label: letters, digits and . _ : / -, "
                "63 at most"
            )
    return tuple(sorted(set(found)))
