"""Files and folders that stay readable whatever takes their names.

A folder that is renamed away, or exchanged for another, is still the folder that was opened; a file that is deleted is still
there for whoever has it open. So nothing that is read through a `Held` can be of files that came later. Only the files in a
folder can be gone, when somebody deletes it.
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
    """Keeps a file or folder open for as long as the object lives. Takes one file descriptor."""

    __slots__ = ("__weakref__", "_descriptor", "close", "now", "path")

    def __init__(self, path: Path, *, now: Path | None = None) -> None:
        """`now`: the way to it, when that is not by its name. Raises FileProblem."""
        try:
            self._descriptor = os.open(now or path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise FileProblem(reason(error)) from None
        self.close = weakref.finalize(self, os.close, self._descriptor)
        """Lets go of it. Forgetting the object does too, but an error that is kept keeps the object that it went through."""
        self.close.atexit = False
        self.path = path
        """Its name when it was opened: for messages."""
        self.now = Path(f"/proc/self/fd/{self._descriptor}")
        """The way to it now, for whoever reads; not to be used, or shown, beyond the life of this object."""

    def is_in_place(self) -> bool:
        """Returns whether its name still leads to it."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        except OSError:
            return False

    def modified(self) -> tuple[int, int]:
        """Returns its time of modification and its size, which change when it is written to."""
        status = os.fstat(self._descriptor)
        return status.st_mtime_ns, status.st_size

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Raises AvatarReplaced, in the place of any other error too, when it lost its name while the block read."""
        try:
            yield
        except Exception:
            self._check()
            raise
        self._check()

    def _check(self) -> None:
        if not self.is_in_place():
            raise AvatarReplaced("the avatar's files were replaced while they were read; load it again") from None
