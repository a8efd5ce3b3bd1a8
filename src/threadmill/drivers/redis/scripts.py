"""Loads scripts from `.lua` files: one script per file, found by its name.

A file's first lines may say what it needs::

    -- flags: no-writes
    -- with: thread, records

`flags` are the server's (`no-writes`: may also run where nothing may be written).
`with` puts other files of the folder in front: parts that several scripts share.

Every script is declared to the server (`#!lua`), which then refuses one that touches
keys of more than one slot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from importlib import resources

from threadmill.errors import InvariantViolated

_NEEDS = re.compile(r"^-- (?P<what>flags|with): (?P<names>.+)$", re.MULTILINE)


@dataclass(frozen=True, eq=False)
class Script:
    """One script, complete."""

    name: str
    text: str

    @cached_property
    def digest(self) -> str:
        """The name that the server knows it by, once it has seen it."""
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """The scripts of one package's folder, by attribute.

    Args:
        package: the package that holds the files.

    Raises:
        InvariantViolated: an unknown one is asked for.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._scripts: dict[str, Script] = {}

    def __getattr__(self, name: str) -> Script:
        if name not in self._scripts:
            self._scripts[name] = self._load(name)
        return self._scripts[name]

    def _load(self, name: str) -> Script:
        body = self._read(name)
        needs = {match["what"]: match["names"] for match in _NEEDS.finditer(body)}
        head = f"#!lua flags={needs['flags']}" if "flags" in needs else "#!lua"
        parts = [part.strip() for part in needs.get("with", "").split(",") if part]
        return Script(name, "\n".join([head, *map(self._read, parts), body]))

    def _read(self, name: str) -> str:
        file = resources.files(self._package).joinpath(f"{name}.lua")
        if not file.is_file():
            msg = f"no script named {name} in {self._package}"
            raise InvariantViolated(msg)
        return file.read_text("utf-8")
