"""Lists all avatars with a description of each, without reading all of them for each request.

An avatar is read again when the file system shows that its files changed. Each listing looks at the folder of avatars, so it has
every new, removed and replaced one at once. It also looks at each avatar's files, unless there are very many avatars: then some
are looked at each second.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError, AvatarNotFound, AvatarReplaced
from avatar_kit.ids import is_avatar_id
from avatar_kit.legacy import NETWORK_PLACE
from avatar_kit.manifest import FRAMES_FOLDER, MANIFEST_NAME

T = TypeVar("T")

ALL_AT_ONCE = 500
"""Up to this many avatars, each listing looks at all their files, in some ten milliseconds."""
REFRESH_S = 1.0
EACH_REFRESH = 1000
"""With more avatars, each `refresh` looks at the files of this many: three percent of a core's time."""

_CHUNK = 50  # a listing waits for no more of a refresh than this
_MOST_PLACES = 64  # for a broken avatar
# A file written within this time may keep its time and size, so it is looked at again until its last change is older.
_SETTLED_S = 1.0
# These errors can pass without a change of any file.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT})

_Seen = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class _Known(Generic[T]):
    """The result of reading one name. `told` None: no avatar."""

    key: tuple[int, ...]
    told: T | None
    places: tuple[str, ...]
    seen: _Seen
    settled: bool


class AvatarListing(Generic[T]):
    """Use from one event loop. A thread of its own reads the files, one avatar after the other."""

    def __init__(
        self,
        catalog: AvatarCatalog,
        describe: Callable[[str, Avatar | AvatarError], T],
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`describe`: makes the description from an id and its avatar or error. It must not keep the avatar.

        `wall_clock`: Unix seconds, as file times have them.
        """
        self._wall_clock = wall_clock
        self._catalog = catalog
        self._describe = describe
        self._thread = ThreadPoolExecutor(1, "list")
        self._known: dict[str, _Known[T]] = {}
        self._told: dict[str, T] = {}
        self._looked_s = -1.0
        self._changed = False
        self._names: dict[str, tuple[int, ...]] = {}
        self._links: dict[str, str] = {}
        self._root_seen: tuple[int, int, int] | None = None
        self._next: Iterator[str] = iter(())
        self._closed = False

    async def entries(self) -> Mapping[str, T]:
        """Returns the description of every avatar by id, sorted, as the avatars are now."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._look, time.monotonic())

    async def refresh(self) -> None:
        """Looks for changed files in the folders of very many avatars. Call it every `REFRESH_S`."""
        if self._looked_s < 0:
            await self.entries()
        loop = asyncio.get_running_loop()
        for _ in range(0, EACH_REFRESH if len(self._known) > ALL_AT_ONCE else 0, _CHUNK):
            await loop.run_in_executor(self._thread, self._check_some)

    def close(self) -> None:
        """Ends the thread, promptly even while very many avatars are being read."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)

    def _look(self, asked_s: float) -> Mapping[str, T]:
        if asked_s <= self._looked_s:  # by a later request
            return self._told
        self._looked_s = time.monotonic()
        there = self._there()
        for name in self._known.keys() - there.keys():
            del self._known[name]
            self._changed = True
        before = [name for name, key in there.items() if (known := self._known.get(name)) and known.key == key]
        for name in there.keys() - before:
            self._read(name, there[name])
            if self._closed:
                return self._told
        self._check(before if len(there) <= ALL_AT_ONCE else [name for name in before if not self._known[name].settled])
        if self._changed:
            self._changed = False
            self._told = {name: told for name in sorted(self._known) if (told := self._known[name].told) is not None}
        return self._told

    def _there(self) -> dict[str, tuple[int, ...]]:
        """Returns each name that can be an avatar, with numbers that change when another takes that name.

        The folder's time changes when anything in it is made, renamed or removed. Only links can change without that.
        """
        began_s = self._wall_clock()
        root = _stat(str(self._catalog.models_root))
        if root != self._root_seen:
            self._names, self._links = _names(self._catalog)
            self._root_seen = root if root and _is_long_ago(root, began_s) else None
        return {**self._names, **{name: _stat(place) or () for name, place in self._links.items()}}

    def _check_some(self) -> None:
        """Checks the next avatars after the last check, and begins again at the end."""
        names = list(itertools.islice(self._next, _CHUNK))
        if not names:
            self._next = iter(list(self._known))
        self._check(names)

    def _check(self, names: Iterable[str]) -> None:
        for name in names:
            known = self._known.get(name)
            if known and not (known.settled and _look_at(known.places) == known.seen):
                self._read(name, known.key)

    def _read(self, name: str, key: tuple[int, ...]) -> None:
        began_s = self._wall_clock()
        told: T | None = None
        found: Avatar | AvatarError | None
        try:
            found = self._catalog.get(name)
        except AvatarNotFound:
            found = None
        except AvatarError as error:
            found = error
        if found is not None:
            told = self._describe(name, found)
        places = tuple(_places(self._catalog, name, found))
        seen = _look_at(places)
        quiet = all(place is None or _is_long_ago(place, began_s) for place in seen)
        self._changed = True
        self._known[name] = _Known(key, told, places, seen, settled=quiet and not _passes(found))


def _names(catalog: AvatarCatalog) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Returns the possible avatars' names with the numbers of their folders, and the targets of those that are links."""
    names: dict[str, tuple[int, ...]] = dict.fromkeys(catalog.named, ())
    links = {}
    try:
        with os.scandir(catalog.models_root) as entries:
            for entry in entries:
                if is_avatar_id(entry.name):
                    names[entry.name] = (entry.inode(),)
                    if entry.is_symlink():
                        links[entry.name] = entry.path
    except OSError:
        pass  # without models_root there are no avatars in it
    return names, links


def _places(catalog: AvatarCatalog, name: str, found: Avatar | AvatarError | None) -> Iterator[str]:
    """Yields the files and folders that the result depends on."""
    folder = catalog.models_root / name
    yield from map(str, (folder, folder / MANIFEST_NAME))
    if isinstance(found, Avatar):
        yield from map(str, (found.network_path, found.rects_path or folder, found.frames.place))
        yield str(found.frames.place.parent / found.frames.name(0))
        return
    entry = catalog.entry(name)
    folders = [folder, folder / NETWORK_PLACE.parent]
    for path in (entry.model_path, entry.crop_rects_path, entry.source_video):
        if path:
            yield str(catalog.models_root / path)
    frames = catalog.models_root / entry.background_dir if entry.background_dir else folder / FRAMES_FOLDER
    yield str(frames)
    yield from _children(frames)[:1]
    for each in folders if found is not None else ():
        yield from _children(each)[:_MOST_PLACES]
    yield str(folders[-1])


def _children(folder: Path) -> list[str]:
    try:
        return sorted(str(folder / name) for name in os.listdir(folder))
    except OSError:
        return []


def _look_at(places: Iterable[str]) -> _Seen:
    """Returns change time, inode and size of each, or None if missing. Renaming and new permissions change the time too."""
    return tuple(map(_stat, places))


def _stat(place: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(place)
    except (OSError, ValueError):
        return None
    return status.st_ctime_ns, status.st_ino, status.st_size


def _is_long_ago(seen: tuple[int, int, int], now_s: float) -> bool:
    return seen[0] < (now_s - _SETTLED_S) * 1e9


def _passes(found: Avatar | AvatarError | None) -> bool:
    """Returns True for an error that may pass without a change of any file."""
    error: BaseException | None = found if isinstance(found, AvatarError) else None
    if isinstance(error, AvatarReplaced):
        return True
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _PASSING):
            return True
        error = error.__cause__ or error.__context__
    return False
