"""The source files of a project, and when they change.

What changed is decided by looking at the files (time, size, inode), never by what the
system reports: a report only says when to look. So a report that is lost, as on some
mounted folders, costs a moment and no more, and a file that was merely read restarts
nothing.

Only source counts: `*.py`, `.env` files and langgraph.json. A graph that writes notes
beside its own code must not restart the program that runs it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import watchfiles

if TYPE_CHECKING:
    from threadmill.config import LangGraphConfig

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 2.0
_DEBOUNCE_SECONDS: Final = 0.2
_FOLDERS_MAX: Final = 2000
_IGNORED: Final = frozenset({"__pycache__", "node_modules", "site-packages"})

_State = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Scan:
    """What stands in the project now."""

    folders: frozenset[Path]
    files: Mapping[Path, _State]

    def differences(self, other: _Scan) -> Sequence[Path]:
        names = self.files.keys() | other.files.keys()
        return sorted(n for n in names if self.files.get(n) != other.files.get(n))


class Sources:
    """Watches the sources of one project.

    Args:
        config: says where they are.
        ignored: folders that are not part of it, such as the database's.
    """

    def __init__(self, config: LangGraphConfig, ignored: Iterable[Path] = ()) -> None:
        files = (spec.file.parent for spec in config.graphs if spec.file is not None)
        self._roots = tuple(dict.fromkeys((config.root, *config.import_paths, *files)))
        self._config = config.path
        self._ignored = frozenset(ignored)
        self._known = self._scan()

    async def changed(self) -> Sequence[Path]:
        """Waits until files are not what they were at the last return; names them."""
        while True:
            scan = self._scan()
            if differences := scan.differences(self._known):
                self._known = scan
                return differences
            await self._until_worth_a_look(scan)

    async def _until_worth_a_look(self, scan: _Scan) -> None:
        try:
            async for _ in watchfiles.awatch(
                *scan.folders,
                watch_filter=self._is_source_or_folder,
                recursive=False,
                debounce=round(_DEBOUNCE_SECONDS * 1000),
                rust_timeout=round(_LOOK_SECONDS * 1000),
                yield_on_timeout=True,
            ):
                return
        except FileNotFoundError:
            return  # a folder went between the look and the watch
        except (OSError, RuntimeError) as error:
            # Such as the system's limit of watches: then looking must do.
            _log.debug("sources.unwatched", cause=str(error))
            await asyncio.sleep(_LOOK_SECONDS)

    def _is_source_or_folder(self, _change: watchfiles.Change, path: str) -> bool:
        name = os.path.basename(path)  # noqa: PTH119 - called for every file that moves
        if name in _IGNORED:
            return False
        return self._is_source(name) or "." not in name

    def _is_source(self, name: str) -> bool:
        return name.endswith((".py", ".env")) or (
            name.startswith(".env") or name == self._config.name
        )

    def _scan(self) -> _Scan:
        folders: set[Path] = set()
        files: dict[Path, _State] = {}
        waiting = list(self._roots)
        while waiting:
            folder = waiting.pop()
            if folder in folders or folder in self._ignored or not folder.is_dir():
                continue
            if len(folders) == _FOLDERS_MAX:
                _log.warning("sources.too_many_folders", watched=_FOLDERS_MAX)
                break
            entries = list(_entries(folder))
            if any(entry.name == "pyvenv.cfg" for entry in entries):
                continue
            folders.add(folder)
            for entry in entries:
                if _is_folder(entry):
                    waiting.append(Path(entry.path))
                elif self._is_source(entry.name):
                    files.update(_state(entry))
        return _Scan(frozenset(folders), files)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return  # gone meanwhile, or not ours to read


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name in _IGNORED:
        return False
    return entry.is_dir(follow_symlinks=False)


def _state(entry: os.DirEntry[str]) -> Iterator[tuple[Path, _State]]:
    try:
        found = entry.stat()
    except OSError:
        return  # gone meanwhile
    yield Path(entry.path), (found.st_mtime_ns, found.st_size, found.st_ino)
