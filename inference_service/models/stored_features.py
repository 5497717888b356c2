"""The audio features of an avatar's own clip, which drive its frames without sound."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from avatar_kit.errors import BrokenAvatar, as_broken_avatar
from avatar_kit.features import MISSING_ROWS, FeatureArray, map_features
from avatar_kit.safe_files import FileProblem
from inference_service.audio.windows import FrameWindows, windows_of_clip

_NONE = (
    "this avatar has no stored features: send sound, or import it again from a folder with its clip's aud_ave.npy or aud_ave.bin "
    "(in the earlier servers' layout: put that file into the avatar's own folder) and load it with force_reload"
)
_MEND = "send sound, or put the right file in its place and load the avatar again with force_reload"


class StoredFeatures:
    """One avatar's feature file, mapped into memory when the avatar is loaded. Thread-safe.

    Frames from sound do not need the file, so an unusable one is no reason to refuse the avatar: only requests for it fail.
    """

    def __init__(self, path: Path | None, *, frame_count: int) -> None:
        """`path`: None when the avatar has no such file. `frame_count`: the avatar's pictures."""
        self._name = path.name if path else ""
        self._rows: FeatureArray | None = None
        self._problem = _NONE
        if path is None:
            return
        try:
            with as_broken_avatar(self._name):
                self._rows = _mapped(path, frame_count)
        except BrokenAvatar as error:
            self._problem = f"{error}; {_MEND}"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the file's array, [rows, 512]; empty for an avatar without a file that can be used."""
        return () if self._rows is None else self._rows.shape

    def windows(self, frames: Sequence[int]) -> FrameWindows:
        """Returns the windows that those frames of the clip were trained on: [len(frames), 16, 512].

        Raises BrokenAvatar when the avatar has no such file, or an unusable one.
        """
        rows = self._rows
        if rows is None:
            raise BrokenAvatar(self._problem)
        # Reading beyond the end of a mapped file that was cut short would end the process.
        if cast("mmap.mmap", rows.base).size() < rows.offset + rows.nbytes:
            raise BrokenAvatar(f"{self._name} has become shorter since it was loaded; {_MEND}")
        windows = windows_of_clip(rows, frames)
        if not np.isfinite(windows).all():  # written over since it was loaded
            raise BrokenAvatar(f"{self._name} holds values that are not finite numbers (NaN or infinity); {_MEND}")
        return windows


def _mapped(path: Path, frame_count: int) -> FeatureArray:
    rows = map_features(path, frame_count=frame_count)
    if len(rows) < frame_count - MISSING_ROWS:
        raise FileProblem(f"has {len(rows)} rows for {frame_count} frames, so it is not of the whole clip")
    return rows
