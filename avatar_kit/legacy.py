"""Loads avatars of the earlier servers' layout: no manifest; the settings name network, pictures and rectangles.

Pictures and rectangles are paired in order, because some extractors number pictures from 0 and some from 1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from avatar_kit.avatar import Avatar, Frames, outside_clip
from avatar_kit.errors import BrokenAvatar, as_broken_avatar
from avatar_kit.features import FEATURE_NAMES
from avatar_kit.frames import PictureFrames
from avatar_kit.geometry import Mask, Paste, Rect
from avatar_kit.held import Held
from avatar_kit.limits import FRAMES_UNKNOWN, MAX_MODEL_BYTES, MAX_PICTURE_BYTES
from avatar_kit.manifest import FPS, FRAMES_FOLDER
from avatar_kit.model_entry import ModelEntry
from avatar_kit.numbering import numbered_frames
from avatar_kit.rectangles import misplaced, read_rects
from avatar_kit.safe_files import FileProblem, check_regular, read_bounded, stays_in
from avatar_kit.timeline import Loop
from avatar_kit.upright import upright_size
from avatar_kit.versions import files_version

NETWORK_PLACE = Path("checkpoint", "model_best.onnx")
RECTS_PLACE = Path("crop_rects.json")


def is_legacy(folder: Path) -> bool:
    """Returns True for a folder of the earlier layout, without a manifest. Its other files may be missing."""
    return os.path.lexists(folder / NETWORK_PLACE)


@as_broken_avatar()
def load_legacy(models_root: Path, avatar_id: str, entry: ModelEntry | None) -> Avatar:
    """Loads the avatar whose files `entry` names. Without an entry they must be in its folder.

    If there are no pictures, those of `source_video` are used, which is read through. Raises BrokenAvatar with every problem
    found, and AvatarReplaced if its pictures are replaced meanwhile.
    """
    inside = None if entry else models_root / avatar_id
    return _Loader(models_root, avatar_id, entry or ModelEntry(), inside=inside).load()


def configured(avatar: Avatar, entry: ModelEntry, models_root: Path) -> Avatar:
    """Applies the settings that change the way an avatar is shown, and those that name videos to compare it with."""
    return replace(
        avatar,
        loop=entry.loop or avatar.loop,
        paste=entry.paste or avatar.paste,
        mask=entry.mask or avatar.mask,
        reference_frame=entry.reference.frame if entry.reference else avatar.reference_frame,
        idle=entry.idle or avatar.idle,
        idle_mouth=entry.idle_mouth or avatar.idle_mouth,
        crops_video_path=entry.crops_video_path and models_root / entry.crops_video_path,
        rois_video_path=entry.rois_video_path and models_root / entry.rois_video_path,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The pictures found, in order; the first `count` are served."""

    frames: Frames
    total: int
    count: int


class _Loader:
    """Loads one avatar and collects its problems."""

    def __init__(self, models_root: Path, avatar_id: str, entry: ModelEntry, *, inside: Path | None) -> None:
        self._models_root, self._id, self._entry, self._inside = models_root, avatar_id, entry, inside
        self._problems: list[str] = []

    def load(self) -> Avatar:
        entry, own = self._entry, Path(self._id)
        network = self._file(entry.model_path or own / NETWORK_PLACE, "model_path", MAX_MODEL_BYTES)
        found = self._frames(self._models_root / (entry.background_dir or own / FRAMES_FOLDER))
        if found is None:
            return self._load_beside(network, None)
        try:
            with found.frames.held.in_place():
                return self._load_beside(network, found)
        except BaseException:
            found.frames.held.close()
            raise

    def _load_beside(self, network: Path | None, found: _Found | None) -> Avatar:
        """Returns the avatar with these pictures, if everything else is there too."""
        entry = self._entry
        rects_path = self._file(entry.crop_rects_path or Path(self._id) / RECTS_PLACE, "crop_rects_path")
        rects = self._rects(rects_path, found)
        if found:
            self._problems += outside_clip(entry.reference, entry.idle, found.count)
        version = self._version(network, rects_path, found)
        if self._problems or not network or not found:
            raise BrokenAvatar(self._problems)
        avatar = Avatar(
            id=self._id,
            root=self._models_root / self._id,
            fps=FPS,
            frame_count=found.count,
            width=found.frames.width,
            height=found.frames.height,
            loop=Loop.BOUNCE,
            paste=Paste.REFERENCE,
            mask=Mask(),
            network_path=network,
            audio_encoder_path=None,
            frames=found.frames,
            rects=tuple(rects[: found.count]),
            features_path=self._features(),
            rects_path=rects_path,
            version=version,
            held=found.frames.held,
        )
        return configured(avatar, entry, self._models_root)

    def _version(self, network: Path | None, rects: Path | None, found: _Found | None) -> str:
        """Returns the version of the files found; "" if there is a problem."""
        if self._problems or network is None or rects is None or found is None:
            return ""
        try:
            return files_version(network, rects, found.frames.held.now)
        except FileProblem as problem:
            self._note(problem, "background_dir", found.frames.place)
            return ""

    def _file(self, path: Path, key: str, max_bytes: int | None = None) -> Path | None:
        """Returns the file that a key names; notes a problem and returns None if it cannot be used."""
        absolute = self._models_root / path
        try:
            check_regular(absolute, max_bytes)
            if self._inside and not stays_in(self._inside, absolute):
                raise FileProblem("leads out of the avatar's folder")
        except FileProblem as problem:
            self._note(problem, key, absolute)
            return None
        return absolute

    def _features(self) -> Path | None:
        """Returns the feature file without checking it: only frames without sound need it."""
        if self._entry.features_path:
            return self._models_root / self._entry.features_path
        for name in FEATURE_NAMES:
            place = self._models_root / self._id / name
            if os.path.lexists(place) and (self._inside is None or stays_in(self._inside, place)):
                return place
        return None

    def _frames(self, folder: Path) -> _Found | None:
        if self._entry.source_video and _is_empty(folder):
            return self._filmed(self._entry.source_video)
        try:
            held = Held(folder)
            paths = numbered_frames(held.now, inside=self._inside)
            if not paths:
                hint = "" if self._entry.source_video else "; with source_video they would be taken from a video"
                raise FileProblem(f"has no frame pictures in it{hint}")
        except FileProblem as problem:
            self._note(problem, "background_dir", folder)
            return None
        count = self._count(len(paths))
        width, height = self._size(folder, paths[0])
        frames = PictureFrames(held, tuple(path.name for path in paths[:count]), width, height, upright=True)
        return _Found(frames, len(paths), count)

    def _filmed(self, source_video: Path) -> _Found | None:
        video = self._file(source_video, "source_video")
        if video is None:
            return None
        from avatar_kit.video.frames import open_frames

        try:
            frames = open_frames(Held(video))
        except FileProblem as problem:
            self._note(problem, "source_video", video)
            return None
        return _Found(frames, frames.count, self._count(frames.count))

    def _count(self, total: int) -> int:
        """Returns the number of pictures to serve out of `total`."""
        wanted = self._entry.num_frames or total
        if wanted > total:
            self._problems.append(f"num_frames is {wanted}, but there are {total} frames")
        return min(wanted, total)

    def _size(self, folder: Path, path: Path) -> tuple[int, int]:
        """Returns the first picture's size, which is the avatar's. The others are checked when they are read."""
        try:
            return upright_size(read_bounded(path, MAX_PICTURE_BYTES))
        except FileProblem as problem:
            self._note(problem, "background_dir", folder / path.name)
            return 0, 0

    def _rects(self, path: Path | None, found: _Found | None) -> list[Rect]:
        if path is None:
            return []
        try:
            rects = read_rects(path, frame_count=found.total if found else FRAMES_UNKNOWN)
            if found is None:
                return rects
            if len(rects) not in {found.total, found.count}:
                raise FileProblem(f"has {len(rects)} rectangles for {found.total} frames; each frame needs one")
            width, height = found.frames.width, found.frames.height
            if width and (outside := misplaced(rects[: found.count], width, height)):
                raise FileProblem([f"has a rectangle that cannot be used: {problem}" for problem in outside])
        except FileProblem as problem:
            self._note(problem, "crop_rects_path", path)
            return []
        return rects

    def _note(self, problem: FileProblem, key: str, path: Path) -> None:
        inside = path.is_relative_to(self._models_root)
        self._problems += problem.of(f"{key}: {path.relative_to(self._models_root) if inside else path.name}")


def _is_empty(folder: Path) -> bool:
    """Returns True if the folder of pictures is missing or empty."""
    try:
        return next(folder.iterdir(), None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False
