"""A folder being written: hidden beside its final place, locked by its writer, and removed if the writer fails.

A killed process cannot remove it, but its lock is released. The next writer to the same place finds the unlocked folder and
removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

OLD_SUFFIX = ".old"
"""Suffix of a replaced folder, between two renames."""

_ANY = "?" * 12


class PartialFolder:
    """Use as a context manager; `path` is the folder until its owner renames it. Parent folders made for it are removed too."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.path = _new_path(place)
        self._made: list[Path] = []
        self._lock = -1

    def __enter__(self) -> Self:
        parent = self.place.parent
        self._made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        try:
            parent.mkdir(parents=True, exist_ok=True)
            _clear_abandoned(self.place)
            self._make()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._clear()

    def _make(self) -> None:
        """Makes and locks the folder; tries again if another process removed it before it was locked."""
        while True:
            self.path.mkdir()
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():
                return
            os.close(self._lock)
            self._lock = -1
            self.path = _new_path(self.place)

    def _clear(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        with contextlib.suppress(OSError):  # by now they are not empty
            for folder in self._made:
                folder.rmdir()


def _new_path(place: Path) -> Path:
    return place.parent / f".{place.name}.{secrets.token_hex(6)}.partial"


def _clear_abandoned(place: Path) -> None:
    """Removes folders that earlier writers to the same place left. Failing to do so does not matter."""
    for left in place.parent.glob(f".{place.name}.{_ANY}.partial"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)
    if place.exists():
        for left in place.parent.glob(f".{place.name}.{_ANY}{OLD_SUFFIX}"):
            shutil.rmtree(left, ignore_errors=True)
