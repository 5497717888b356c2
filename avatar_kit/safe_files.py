"""Reads files from untrusted sources: only regular files, at most a limit of bytes, never outside a folder."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np


class FileProblem(Exception):
    """A file cannot be used. Each problem ends a sentence that begins with the file's name; some begin with a colon."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))

    def of(self, name: str) -> list[str]:
        """Returns the whole sentences."""
        return [f"{name}{problem}" if problem.startswith(":") else f"{name} {problem}" for problem in self.problems]


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Returns the bytes of a regular file of at most `max_bytes`. Raises FileProblem; never waits on a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise FileProblem(reason(error)) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileProblem("is not a regular file")
        if status.st_size > max_bytes:
            raise _too_large(status.st_size, max_bytes)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(status.st_size)
    except OSError as error:
        raise FileProblem(reason(error)) from None
    finally:
        os.close(descriptor)


def open_array(path: Path) -> np.memmap[Any, Any]:
    """Maps a NumPy file into memory, read-only. Refuses Python objects without reading them. Raises FileProblem."""
    check_regular(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise FileProblem(f"cannot be read: {error.strerror}") from None
    except Exception:  # NumPy parses the header as Python text and passes on whatever Python's parsers raise
        raise FileProblem("is not a NumPy array of numbers, or is truncated") from None


def check_regular(path: Path, max_bytes: int | None = None) -> None:
    """Raises FileProblem unless `path` is a readable, non-empty regular file of at most `max_bytes`."""
    size = size_of(path)
    if not size:
        raise FileProblem("is empty")
    if max_bytes is not None and size > max_bytes:
        raise _too_large(size, max_bytes)
    if not os.access(path, os.R_OK):
        raise FileProblem("cannot be read: Permission denied")


def size_of(path: Path) -> int:
    """Returns the size of a regular file in bytes. Raises FileProblem."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise FileProblem(reason(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise FileProblem("is not a regular file")
    return status.st_size


def sha256_of(path: Path, max_bytes: int | None = None) -> str:
    """Hashes the file's whole content, in hexadecimal. Raises FileProblem, also for more than `max_bytes`."""
    if max_bytes is not None and (size := size_of(path)) > max_bytes:
        raise _too_large(size, max_bytes)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileProblem(reason(error)) from None


def contained(root: Path, relative: str) -> Path:
    """Returns `root / relative`. Raises FileProblem if it is outside `root` or leads out through a symbolic link."""
    pure = PurePosixPath(relative)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in relative or "\\" in relative:
        raise FileProblem("is not a path inside the avatar's folder")
    path = root / pure
    if not stays_in(root, path):
        raise FileProblem("leads out of the avatar's folder")
    return path


def stays_in(root: Path, path: Path) -> bool:
    """Returns True if `path` is in `root` after following every link. A missing path is judged by its name."""
    if _has_no_links_below(root, path):  # nearly always, and without the cost of following both paths from the top
        return True
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def _has_no_links_below(root: Path, path: Path) -> bool:
    """Returns True if `path` is written as one in `root`, and no part of it after `root` is a link."""
    if not path.is_relative_to(root):
        return False
    parts = path.relative_to(root).parts
    if ".." in parts:
        return False
    place = str(root)
    for part in parts:
        place = os.path.join(place, part)
        if os.path.islink(place):
            return False
    return True


def _too_large(size: int, max_bytes: int) -> FileProblem:
    return FileProblem(f"has {size} bytes, more than the {max_bytes} allowed")


def reason(error: OSError | ValueError) -> str:
    """Ends a sentence about a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return "cannot be read: not a file name"
