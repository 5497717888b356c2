"""A folder being written: hidden beside its final place, locked by its writer, and removed if the writer fails.

A killed process cannot remove it, but its lock is released. The next writer to the same place finds the unlocked folder and
removes it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OLD_SUFFIX = ".old"
"""Suffix of a replaced folder, between two renames."""

_ANY = "?" * 12
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def partial_folder(place: Path) -> Iterator[Path]:
    """Makes the folder, which its owner renames. Parent folders made for it are removed too, if they are empty at the end."""
    made = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(place)
        with _locked_folder(place) as path:
            yield path
    finally:
        with suppress(OSError):  # by now they are not empty
            for folder in made:
                folder.rmdir()


@contextmanager
def _locked_folder(place: Path) -> Iterator[Path]:
    """Makes and locks a folder; tries again if another process removed it before it was locked."""
    while True:
        path = place.parent / f".{place.name}.{secrets.token_hex(6)}.partial"
        path.mkdir()
        lock = -1
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                yield path
                return
        finally:
            shutil.rmtree(path, ignore_errors=True)
            if lock >= 0:
                os.close(lock)


def exchange(one: Path, other: Path) -> bool:
    """Swaps two paths of one file system atomically: readers never find either missing.

    Returns False and changes nothing if one is missing, or if the system or the file system cannot do it. Linux 3.15 and its
    own file systems can; most network file systems cannot.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # another system, or a C library without it
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _clear_abandoned(place: Path) -> None:
    """Removes folders that earlier writers to the same place left. Failing to do so does not matter."""
    for left in place.parent.glob(f".{place.name}.{_ANY}.partial"):
        with suppress(OSError):
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)
    if place.exists():
        for left in place.parent.glob(f".{place.name}.{_ANY}{OLD_SUFFIX}"):
            shutil.rmtree(left, ignore_errors=True)
