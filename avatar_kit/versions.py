"""Computes the version of an avatar, which identifies the content of its files.

It depends on content alone, so two services agree whether they mount the same files or have copies. An `avatar.yaml` has the
checksums of everything: the version is the first 16 digits of its SHA-256, as `sha256sum` shows it. Without one it is made
from the rectangles, samples of the network, and the names and sizes of the pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from avatar_kit.limits import MAX_MANIFEST_BYTES, MAX_RECTS_BYTES
from avatar_kit.manifest import MANIFEST_NAME, Manifest
from avatar_kit.numbering import is_frame_name
from avatar_kit.safe_files import FileProblem, contained, read_bounded

_DIGITS = 16
# Files up to this size are read whole. Larger ones are sampled, since training a network anew changes all of it.
_WHOLE_BYTES = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 32, 4096


def manifest_version(folder: Path, manifest: Manifest) -> str:
    """Returns the version of an avatar with this `avatar.yaml`; later edits of the rectangles change it too.

    Raises FileProblem.
    """
    digest = hashlib.sha256(read_bounded(folder / MANIFEST_NAME, MAX_MANIFEST_BYTES))
    entry = manifest.files.crop_rects
    rects = read_bounded(contained(folder, entry.path), MAX_RECTS_BYTES)
    if hashlib.sha256(rects).hexdigest() != entry.sha256:
        digest.update(rects)
    return digest.hexdigest()[:_DIGITS]


def files_version(network: Path, rects: Path, pictures: Path) -> str:
    """Returns the version of an avatar without an `avatar.yaml`. Raises FileProblem.

    `pictures`: the folder of pictures, or their video.
    """
    digest = hashlib.sha256()
    try:
        parts = [*_sampled(network), read_bounded(rects, MAX_RECTS_BYTES)]
        parts += _listed(pictures) if pictures.is_dir() else _sampled(pictures)
    except OSError as error:
        raise FileProblem(f"cannot be read: {error.strerror}") from None
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()[:_DIGITS]


def _sampled(path: Path) -> Iterator[bytes]:
    """Yields a file's size and its content or, if it is large, pieces from its first to its last byte."""
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
    except OSError:  # a broken link: reported when it is read
        return -1
