"""The version of an avatar, which names the content of its files.

It is of the content alone, so that two services agree on it whether they mount the same files or have copies. Where an
`avatar.yaml` is, that has the checksums of everything: the version is its SHA-256, as far as `sha256sum` shows it in 16 digits.
Without one it is made from the rectangles, samples of the network, and the names and sizes of the pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from avatar_kit.limits import MAX_MANIFEST_BYTES, MAX_RECTS_BYTES
from avatar_kit.manifest import MANIFEST_NAME, Manifest, read_manifest
from avatar_kit.numbering import is_frame_name
from avatar_kit.safe_files import FileProblem, contained, read_bounded

_DIGITS = 16
# A file up to this size is read whole; of a larger one samples are, which training a network anew changes all over.
_WHOLE_BYTES = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 32, 4096


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


def files_version(network: Path, rects: Path, pictures: Path) -> str:
    """The version of an avatar without an `avatar.yaml`. Raises FileProblem.

    `pictures`: the folder of frames, or their video.
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
