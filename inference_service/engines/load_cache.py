"""Keeps in a folder what loads have found out and compiled, so that later loads, also of later processes, need not do it again.

An entry is named by a digest of all that it depends on, so nothing in the folder is ever out of date. Each holds the digest of
its own content: a damaged one is as good as none. Without a folder that can be used, nothing is kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from avatar_kit.safe_files import FileProblem, read_bounded

_SUFFIX = ".kept"
_DIGEST_BYTES = hashlib.sha256().digest_size

log = logging.getLogger(__name__)


def cache_key(*parts: object) -> str:
    """Returns a name for what depends on these values: bytes, or what `str` tells apart."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


class LoadCache:
    """Entries in one folder, which other processes may use too. Thread-safe. A folder that cannot be written is read."""

    def __init__(self, folder: Path | None, *, max_bytes: int = 0) -> None:
        """`folder`: made when something is first kept; None: nothing is kept. `max_bytes`: of all entries together."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._told = False

    @property
    def keeps(self) -> bool:
        """Tells if there is a folder: without, keys need not be made."""
        return self._folder is not None

    def get(self, key: str) -> bytes | None:
        """Returns what was kept under a key of `cache_key`; None when there is nothing, or nothing whole."""
        if self._folder is None or not self._is_ours():
            return None
        path = self._folder / f"{key}{_SUFFIX}"
        try:
            data = read_bounded(path, self._max_bytes)
        except FileProblem:
            return None
        content = memoryview(data)[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != data[:_DIGEST_BYTES]:
            log.warning("%s is damaged and is not used", path)
            return None
        with suppress(OSError):
            os.utime(path)  # the ones used last stay
        return bytes(content)

    def put(self, key: str, content: bytes) -> None:
        """Keeps bytes under a key, if that can be done, and removes the entries that were not used for longest to make room."""
        if self._folder is None or len(content) + _DIGEST_BYTES > self._max_bytes:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_ours():
                self._write(self._folder, key, content)
        except OSError as error:
            if not self._told:
                log.info("nothing is kept for later loads in %s (cache.folder): %s", self._folder, error.strerror)
            self._told = True

    def _write(self, folder: Path, key: str, content: bytes) -> None:
        descriptor, name = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with open(descriptor, "wb") as file:
                file.write(hashlib.sha256(content).digest())
                file.write(content)
            Path(name).replace(folder / f"{key}{_SUFFIX}")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        with self._lock:
            self._make_room(folder)

    def _make_room(self, folder: Path) -> None:
        found = []
        for entry in os.scandir(folder):
            with suppress(OSError):  # another process removed it
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime_ns, status.st_size, entry.path))
        room = self._max_bytes - sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if room >= 0:
                return
            Path(path).unlink(missing_ok=True)
            room += size

    def _is_ours(self) -> bool:
        """Tells if nobody else may write there: what is compiled runs in this process."""
        try:
            status = self._folder.stat() if self._folder else None
        except OSError:
            return False
        if status is None or not stat.S_ISDIR(status.st_mode):
            return False
        # root may have made it for a service that only reads it
        safe = status.st_uid in {0, os.geteuid()} and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not safe and not self._told:
            self._told = True
            log.warning("%s (cache.folder) is not used, as other users may write there", self._folder)
        return safe


NOTHING_KEPT: Final = LoadCache(None)
