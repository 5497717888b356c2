"""Writes an avatar so that readers never see a part of it: into a hidden folder beside its place, renamed at the end."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar, load_avatar
from avatar_kit.errors import AvatarExists, BrokenAvatar, InvalidAvatarId, as_broken_avatar
from avatar_kit.features import FEATURE_WIDTH
from avatar_kit.geometry import Mask, Paste, Rect
from avatar_kit.ids import check_avatar_id
from avatar_kit.legacy import is_legacy
from avatar_kit.manifest import FORMAT_VERSION, FPS, FRAMES_FOLDER, MANIFEST_NAME, FileEntry, Manifest, manifest_text
from avatar_kit.partial_folder import OLD_SUFFIX, exchange, partial_folder
from avatar_kit.pictures import check_size, inspect_picture, size_problem
from avatar_kit.rectangles import misplaced, rects_text
from avatar_kit.reference_frame import Reference
from avatar_kit.timeline import FrameRange, IdleMouth, Loop

NETWORK_NAME = "network.onnx"
AUDIO_ENCODER_NAME = "audio_encoder.onnx"
FEATURES_NAME = "aud_ave.npy"
RECTS_NAME = "crop_rects.json"
CHECKSUMS_NAME = "frames.sha256"
VIDEO_NAME = "background"  # without its suffix


def refuse_taken(models_root: Path, avatar_id: str, *, replace: bool = False) -> None:
    """Raises AvatarExists if that name is taken; with `replace`, only if it is not an avatar's.

    Raises InvalidAvatarId for the name of the shared audio encoder.
    """
    if avatar_id == AUDIO_ENCODER_NAME:
        raise InvalidAvatarId(f"{avatar_id!r} is the name of the shared audio encoder, not of an avatar")
    place = models_root / avatar_id
    if not os.path.lexists(place):
        return
    if not replace:
        raise AvatarExists(f"avatar {avatar_id!r} exists: replace it (--replace), or choose another id")
    if not (os.path.lexists(place / MANIFEST_NAME) or is_legacy(place) or place.is_symlink() or _is_empty(place)):
        raise AvatarExists(f"{place} is not an avatar and is not replaced by one: move it away, or choose another id")


class AvatarWriter:
    """Writes one avatar of format version 1; use it as a context manager. Leaving it without `finish` leaves nothing behind.

    Raises AvatarExists when the id is taken and `replace` is False, InvalidAvatarId, and ValueError for a size that no avatar may
    have. For one thread.
    """

    def __init__(
        self,
        models_root: Path,
        avatar_id: str,
        *,
        width: int,
        height: int,
        loop: Loop = Loop.BOUNCE,
        paste: Paste = Paste.REFERENCE,
        mask: Mask | None = None,
        reference_frame: int | None = None,
        idle: FrameRange | None = None,
        idle_mouth: IdleMouth = IdleMouth.REST,
        replace: bool = False,
    ) -> None:
        check_avatar_id(avatar_id)
        if problem := size_problem(width, height):
            raise ValueError(f"an avatar that {problem}")
        self._id = avatar_id
        self._place = models_root / avatar_id
        self._width, self._height = width, height
        self._look = {
            "loop": loop,
            "paste": paste,
            "mask": mask or Mask(),
            "reference": Reference(reference_frame),
            "idle": idle,
            "idle_mouth": idle_mouth,
        }
        self._replace = replace
        refuse_taken(models_root, avatar_id, replace=replace)
        self._partial = partial_folder(self._place)
        self._rects: list[Rect] = []
        self._frame_sums: list[str] = []
        self._files: dict[str, FileEntry] = {}

    def __enter__(self) -> Self:
        self._folder = self._partial.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._partial.__exit__(kind, error, trace)

    def add_frame(self, picture: bytes, rect: Rect) -> None:
        """Adds the next picture: a whole JPEG or PNG file of the avatar's size, and its rectangle. Raises BrokenAvatar."""
        index = len(self._rects)
        with as_broken_avatar(f"frame {index}"):
            header = inspect_picture(picture)
            check_size(header.width, header.height, self._width, self._height)
        if outside := rect.problem(self._width, self._height):
            raise BrokenAvatar(f"frame {index}: the rectangle {outside}")
        (self._folder / FRAMES_FOLDER).mkdir(exist_ok=True)
        name = f"{FRAMES_FOLDER}/frame_{index:06d}{header.suffix}"
        (self._folder / name).write_bytes(picture)
        self._rects.append(rect)
        self._frame_sums.append(f"{hashlib.sha256(picture).hexdigest()}  {name}\n")

    def set_video(self, video: Path, rects: Sequence[Rect]) -> Path:
        """Copies the video that holds all pictures, instead of picture files, and returns the copy. Does not check it:
        `check_video` does. `rects`: one for each picture. Raises BrokenAvatar.
        """
        if self._rects:
            raise ValueError("an avatar's frames are pictures or in a video, not both")
        if problems := misplaced(rects, self._width, self._height):
            raise BrokenAvatar(problems)
        name = f"{VIDEO_NAME}{video.suffix.lower()}"
        self._add_file("background_video", name, video)
        self._rects = list(rects)
        return self._folder / name

    def set_network(self, network: bytes | Path) -> None:
        """Adds the lip-sync network, ONNX: bytes or a file to copy. Does not check it: `verify_avatar` does."""
        self._add_file("network", NETWORK_NAME, network)

    def set_audio_encoder(self, encoder: bytes | Path) -> None:
        """Adds the avatar's own audio encoder, ONNX: bytes or a file to copy."""
        self._add_file("audio_encoder", AUDIO_ENCODER_NAME, encoder)

    def set_features(self, features: NDArray[np.float32]) -> None:
        """Adds the clip's own audio features: float32 [rows, 512]."""
        if features.ndim != 2 or features.shape[1] != FEATURE_WIDTH or not np.isfinite(features).all():
            raise BrokenAvatar(f"audio features of shape {features.shape}; expected finite numbers, [rows, {FEATURE_WIDTH}]")
        _write_array(self._folder / FEATURES_NAME, np.ascontiguousarray(features, np.float32))
        self._note_file("features", FEATURES_NAME)

    def finish(self) -> Avatar:
        """Checks the written files, moves the folder to its place and loads the avatar from there.

        Raises BrokenAvatar if something is missing, AvatarExists if the id was taken meanwhile.
        """
        if missing := [what for what, there in (("frames", self._rects), ("network", "network" in self._files)) if not there]:
            raise BrokenAvatar([f"the avatar has no {what}" for what in missing])
        self._add_file("crop_rects", RECTS_NAME, rects_text(self._rects).encode())
        if self._frame_sums:
            self._add_file("frame_checksums", CHECKSUMS_NAME, "".join(self._frame_sums).encode())
        (self._folder / MANIFEST_NAME).write_text(manifest_text(self._manifest()), encoding="utf-8")
        load_avatar(self._folder)
        self._put_in_place()
        return load_avatar(self._place)

    def _manifest(self) -> Manifest:
        return Manifest.model_validate(
            {
                "format_version": FORMAT_VERSION,
                "id": self._id,
                "fps": FPS,
                "frame_count": len(self._rects),
                "width": self._width,
                "height": self._height,
                "network_kind": "ave",
                **self._look,
                "files": self._files,
            }
        )

    def _add_file(self, role: str, name: str, content: bytes | Path) -> None:
        if isinstance(content, bytes):
            (self._folder / name).write_bytes(content)
        else:
            shutil.copyfile(content, self._folder / name)
        self._note_file(role, name)

    def _note_file(self, role: str, name: str) -> None:
        with (self._folder / name).open("rb") as file:
            self._files[role] = FileEntry(path=name, sha256=hashlib.file_digest(file, "sha256").hexdigest())

    def _put_in_place(self) -> None:
        """Swaps the folder with the one in its place, or renames it if there is none."""
        refuse_taken(self._place.parent, self._id, replace=self._replace)
        if self._replace and exchange(self._folder, self._place):
            _remove(self._folder)
        else:
            self._rename()

    def _rename(self) -> None:
        """Moves the old folder away, then renames the new one; moves the old one back if that fails."""
        old = self._folder.with_suffix(OLD_SUFFIX)
        if self._replace:
            with contextlib.suppress(FileNotFoundError):
                self._place.rename(old)
        try:
            self._folder.rename(self._place)
        except OSError as error:
            if os.path.lexists(old):
                old.rename(self._place)
            if error.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
                raise AvatarExists(f"avatar {self._id!r} has been made by somebody else meanwhile") from None
            raise
        _remove(old)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None


def _remove(old: Path) -> None:
    """Removes a replaced folder. It is no longer needed, so failing to remove all of it does not matter."""
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            old.unlink()


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    """Does the same as `np.save`, but raises the system's own error: `np.save` gives no errno for a full disk."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
