"""Which content an avatar's files have, and whether they are still the files that it was loaded from.

The version is of the content alone, so that two services agree on it whether they mount the same files or have copies. Where an
`avatar.yaml` is, that has the checksums of everything: the version is its SHA-256, as far as `sha256sum` shows it in 16 digits.
Without one it is made from the rectangles, samples of the network, and the names and sizes of the pictures.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from avatar_kit.errors import AvatarReplaced, BrokenAvatar
from avatar_kit.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, read_manifest
from avatar_kit.numbering import is_frame_name
from avatar_kit.rectangles import MAX_RECTS_BYTES
from avatar_kit.safe_files import FileProblem, contained, read_bounded

Read = TypeVar("Read")

_DIGITS = 16
_TRIES = 4
# A file up to this size is read whole; of a larger one samples are, which training a network anew changes all over.
_WHOLE_BYTES = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 32, 4096


class Stamp:
    """What the file system says of some files and folders: whether they are still the same ones shows in microseconds."""

    __slots__ = ("_seen",)

    def __init__(self, *paths: Path) -> None:
        self._seen: dict[str, tuple[int, ...] | None] = {}
        self.add(*paths)

    def add(self, *paths: Path) -> None:
        """Looks at more of them. What does not exist is noted too."""
        for path in paths:
            self._seen.setdefault(str(path), _look(str(path)))

    def holds(self) -> bool:
        """Whether a look at them now shows the same."""
        return all(_look(path) == seen for path, seen in self._seen.items())


@dataclass(frozen=True, slots=True)
class Identity:
    """What an avatar was loaded from."""

    version: str
    stamp: Stamp
    recount: Callable[[], str]
    """The version of what lies there now. Raises FileProblem or BrokenAvatar."""

    def is_current(self) -> bool:
        """Whether the same content still lies there; files that were put there again unchanged are the same content."""
        if self.stamp.holds():
            return True
        try:
            return self.recount() == self.version
        except (FileProblem, BrokenAvatar):
            return False


def read_unchanged(read: Callable[[Stamp], Read], *paths: Path) -> Read:
    """What `read` gives when none of `paths`, nor of those that it adds to its stamp, changed while it read.

    Raises AvatarReplaced when they do not come to rest, and what `read` raises of files that did not change.
    """
    for _ in range(_TRIES):
        stamp = Stamp(*paths)
        try:
            content = read(stamp)
        except BrokenAvatar:
            if stamp.holds():
                raise
        else:
            if stamp.holds():
                return content
    raise AvatarReplaced("the avatar's files are being replaced; try again shortly")


def manifest_version(folder: Path, manifest: Manifest | None = None) -> str:
    """The version of an avatar with an `avatar.yaml`; rectangles that were edited after it was written count too.

    `manifest`: what that file says, if it has been read. Raises FileProblem, BrokenAvatar.
    """
    digest = hashlib.sha256(read_bounded(folder / MANIFEST_NAME, MAX_MANIFEST_BYTES))
    entry = (manifest or read_manifest(folder)).files.crop_rects
    rects = read_bounded(contained(folder, entry.path), MAX_RECTS_BYTES)
    if hashlib.sha256(rects).hexdigest() != entry.sha256:
        digest.update(rects)
    return digest.hexdigest()[:_DIGITS]


def files_version(network: Path, rects: Path, pictures: Path, *, unless: Path) -> str:
    """The version of an avatar without an `avatar.yaml`, which would be at `unless`. Raises FileProblem.

    `pictures`: the folder of frames, or their video.
    """
    if os.path.lexists(unless):
        raise FileProblem(f"is not what counts beside an {MANIFEST_NAME}")
    digest = hashlib.sha256()
    try:
        parts = [*_sampled(network), read_bounded(rects, MAX_RECTS_BYTES)]
        parts += _listed(pictures) if pictures.is_dir() else _sampled(pictures)
    except OSError as error:
        raise FileProblem(f"can not be read: {error.strerror}") from None
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()[:_DIGITS]


def _look(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    # A folder's size says nothing that its time does not.
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_dev, status.st_ino, status.st_mtime_ns, size


def _sampled(path: Path) -> Iterator[bytes]:
    """The size of a file and, of a large one, pieces from its first to its last byte."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        yield b"%d" % size
        if size <= _WHOLE_BYTES:
            yield file.read(_WHOLE_BYTES)
            return
        for sample in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


def _listed(folder: Path) -> Iterator[bytes]:
    with os.scandir(folder) as entries:
        sizes = {entry.name: _size(entry) for entry in entries if is_frame_name(entry.name)}
    for name in sorted(sizes):
        yield f"{name} {sizes[name]}".encode()


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere: reported when it is read
        return -1
