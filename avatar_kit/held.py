"""Keeps files and folders readable after their names are taken by others.

An open folder that is renamed or exchanged is still the same folder, and a deleted file can be read as long as it is open. So
everything read through a `Held` comes from the files that were opened. Only files in a held folder can disappear, by deletion.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avatar_kit.errors import AvatarReplaced
from avatar_kit.safe_files import FileProblem, reason


class Held:
    """Keeps a file or folder open during the object's life. Uses one file descriptor."""

    __slots__ = ("__weakref__", "_descriptor", "close", "now", "path")

    def __init__(self, path: Path, *, now: Path | None = None) -> None:
        """`now`: the path to open, if other than `path`. Raises FileProblem."""
        try:
            self._descriptor = os.open(now or path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise FileProblem(reason(error)) from None
        self.close = weakref.finalize(self, os.close, self._descriptor)
        """Closes it. Deleting the object does too, but a stored exception can keep the object alive."""
        self.close.atexit = False
        self.path = path
        """The name when it was opened: for messages."""
        self.now = Path(f"/proc/self/fd/{self._descriptor}")
        """The path to read through. Not valid after the life of this object; never show it."""

    def is_in_place(self) -> bool:
        """Returns True if the name still leads to it."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        except OSError:
            return False

    def modified(self) -> tuple[int, int]:
        """Returns modification time and size, which change when the file is written to."""
        status = os.fstat(self._descriptor)
        return status.st_mtime_ns, status.st_size

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Raises AvatarReplaced, instead of any other error too, if the name was lost while the block ran."""
        try:
            yield
        except Exception:
            self._check()
            raise
        self._check()

    def _check(self) -> None:
        if not self.is_in_place():
            raise AvatarReplaced("the avatar's files were replaced while they were read; load it again") from None
