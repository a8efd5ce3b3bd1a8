"""Imports the files and modules that langgraph.json names.

Why: two graphs may both live in a ``graph.py``, a file may lie in a package or not, and
what the file defines must be found again by its module's name: checkpoints store the
classes of a state as (module, name), and any process of any host reads them back.

Promises:

* A file that the import path reaches is imported under its own name, so that an
  `import` elsewhere finds the same module and the same classes.
* Any other file gets a name of its own that depends only on its path relative to
  langgraph.json: two files never collide, and every host gives the same name.
* A file in a package may import relatively in both cases.
* A failed import leaves no half-made module behind.

The folders of `LangGraphConfig.import_paths` go to the end of `sys.path`: they add
modules and never hide an installed one. They stay there for the life of the process.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from threadmill.config import GraphSpec, LangGraphConfig

_ALIAS_PREFIX = "threadmill_graph_"


class ModuleLoader:
    """Imports the modules of one langgraph.json, each file once.

    A second loader executes an aliased file anew; a module imported under its own name
    stays as Python keeps it. New code is served by a new process.
    """

    def __init__(self, config: LangGraphConfig) -> None:
        self._root = config.root
        self._import_paths = config.import_paths
        self._executed: set[str] = set()

    def extend_import_path(self) -> None:
        """Makes the local dependencies importable; a second call changes nothing."""
        for path in map(str, self._import_paths):
            if path not in sys.path:
                sys.path.append(path)
        importlib.invalidate_caches()

    def load(self, spec: GraphSpec) -> ModuleType:
        """Imports the module of `spec`. Errors of the user's code pass through."""
        if spec.file is None:
            return importlib.import_module(spec.module or "")
        if not spec.file.is_file():
            msg = f"no file {spec.file}; paths are relative to langgraph.json"
            raise FileNotFoundError(msg)
        base, parts = _place(spec.file)
        name = self._own_name(spec.file, base)
        if name is not None:
            module = importlib.import_module(name)
            if _same_file(module.__file__, spec.file):
                return module
        return self._load_aliased(base, parts)

    def _own_name(self, file: Path, base: Path) -> str | None:
        """The name by which an `import` would find `file`, if there is one.

        Only the first part is looked up, because looking up a later one would execute
        a stranger's package of the same name.
        """
        roots = [p for p in self._import_paths if base.is_relative_to(p)]
        for root in sorted(roots, key=lambda path: len(path.parts), reverse=True):
            parts = _parts(file, root)
            if not parts or not all(part.isidentifier() for part in parts):
                continue
            first = root / parts[0]
            if _finds(parts[0], first if first.is_dir() else file):
                return ".".join(parts)
        return None

    def _load_aliased(self, base: Path, parts: tuple[str, ...]) -> ModuleType:
        anchor = base / parts[0]
        package = anchor.is_dir()
        location = anchor / "__init__.py" if package else anchor.with_suffix(".py")
        alias = self._alias(location)
        if alias not in self._executed:
            _execute(alias, location, package=package)
            self._executed.add(alias)
        return importlib.import_module(".".join((alias, *parts[1:])))

    def _alias(self, location: Path) -> str:
        try:
            relative = Path(os.path.relpath(location, self._root)).as_posix()
        except ValueError:  # another drive, on Windows: there is no relative path
            relative = location.as_posix()
        digest = hashlib.sha256(relative.encode()).hexdigest()[:8]
        name = location.parent.name if location.stem == "__init__" else location.stem
        return f"{_ALIAS_PREFIX}{re.sub(r'[^0-9A-Za-z_]', '_', name)}_{digest}"


def _place(file: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder around the file's outermost package, and its dotted parts in it."""
    base = file.parent
    while (base / "__init__.py").exists():
        base = base.parent
    return base, _parts(file, base)


def _parts(file: Path, root: Path) -> tuple[str, ...]:
    parts = file.relative_to(root).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _finds(name: str, place: Path) -> bool:
    """Whether `import name` finds the package folder or the file at `place`."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module without a spec
        return False
    if spec is None:
        return False
    if spec.submodule_search_locations is None:
        return _same_file(spec.origin, place)
    found = spec.submodule_search_locations
    return any(_same_file(path, place) for path in found)


def _same_file(path: str | None, other: Path) -> bool:
    try:
        return path is not None and other.samefile(path)
    except OSError:  # such as the origin "built-in"
        return False


def _execute(alias: str, location: Path, *, package: bool) -> None:
    """Runs a file as the module `alias`, which is gone again if it fails."""
    for name in [n for n in sys.modules if n == alias or n.startswith(alias + ".")]:
        del sys.modules[name]
    folders = [str(location.parent)] if package else None
    spec = spec_from_file_location(alias, location, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {location}")
    module = module_from_spec(spec)
    sys.modules[alias] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(alias, None)
        raise
