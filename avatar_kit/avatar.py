"""One avatar as the services see it, wherever and however its files lie."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from avatar_kit.errors import AvatarReplaced, BrokenAvatar
from avatar_kit.frames import Frames, PictureFrames
from avatar_kit.geometry import Mask, Paste, Picture, Rect
from avatar_kit.identity import Identity, Stamp, manifest_version, read_unchanged
from avatar_kit.manifest import FRAMES_FOLDER, MANIFEST_NAME, FileEntry, Manifest, read_manifest
from avatar_kit.numbering import numbered_frames
from avatar_kit.pictures import MAX_PICTURE_BYTES, inspect_picture
from avatar_kit.rectangles import misplaced, read_rects
from avatar_kit.reference_frame import Reference
from avatar_kit.safe_files import FileProblem, check_regular, contained, read_bounded
from avatar_kit.timeline import FrameRange, Loop
from avatar_kit.video.frames import VideoFrames, header_problems

__all__ = ["Avatar", "Loop", "Mask", "Paste", "Picture", "Rect", "load_avatar"]


@dataclass(frozen=True, slots=True)
class Avatar:
    """What is needed to serve an avatar. Pictures and networks stay on disk until somebody reads them."""

    id: str
    root: Path
    """Its folder; `frame_name` and messages are relative to it."""
    fps: float
    frame_count: int
    width: int
    height: int
    loop: Loop
    paste: Paste
    mask: Mask
    network_path: Path
    audio_encoder_path: Path | None
    """The avatar's own encoder; None: the shared one, see `AvatarCatalog.audio_encoder_path`."""
    frames: Frames = field(repr=False)
    """Read them by `read_frame`."""
    rects: tuple[Rect, ...] = field(repr=False)
    features_path: Path | None = None
    rects_path: Path | None = None
    crops_video_path: Path | None = None
    rois_video_path: Path | None = None
    reference_frame: int | None = None
    """The frame whose unmasked crop the network is shown for every frame; None: each frame's own."""
    idle: FrameRange | None = None
    """Where the clip stays while nobody speaks; None: all of it is gone through, as in speech."""
    identity: Identity | None = field(default=None, repr=False, compare=False)
    """Of the files that it was loaded from; None: they are taken to stay what they are."""

    @property
    def version(self) -> str:
        """Which content its files have, equal wherever they lie: two services that have the same one fit together."""
        return self.identity.version if self.identity else ""

    def is_current(self) -> bool:
        """Whether its files are still those that it was loaded from. Microseconds, milliseconds when they were touched."""
        return self.identity is None or self.identity.is_current()

    def check_current(self) -> None:
        """For whoever has just read one of its files: raises AvatarReplaced when that may have been another avatar's."""
        if not self.is_current():
            raise AvatarReplaced("the avatar's files were replaced while it was in use; load it again")

    @property
    def video(self) -> VideoFrames | None:
        """The frames, when they are in a video: then reading them in order is what is cheap."""
        return self.frames if isinstance(self.frames, VideoFrames) else None

    @property
    def frame_paths(self) -> tuple[Path, ...]:
        """The pictures, one a frame; none when the frames are in a video."""
        return () if self.video else self.frames.files

    def frame_name(self, index: int) -> str:
        """The name of the picture, or of the video, as messages give it: never the full path."""
        return self.frames.name(index)

    def read_frame(self, index: int) -> Picture:
        """Decodes frame `index`, 0 .. frame_count - 1, from disk: [height, width, 3]. May be called from any thread.

        Raises BrokenAvatar for one that is missing, truncated, damaged or of another size than the avatar, and AvatarReplaced,
        never a picture, when the avatar's files are no longer those that it was loaded from.
        """
        if not 0 <= index < self.frame_count:
            raise IndexError(f"frame {index} of {self.frame_count}")
        try:
            picture = self.frames.read(index)
        except FileProblem as problem:
            self.check_current()
            raise BrokenAvatar(problem.of(self.frame_name(index))) from None
        self.check_current()  # after reading, so that a swap meanwhile is noticed
        return picture


def load_avatar(folder: Path) -> Avatar:
    """The avatar of format version 1 in `folder`, whose name is its id.

    Reads the manifest, the rectangles, the listing of the frames and the header of the first, or of the video; checksums and
    everything else are `verify_avatar`'s. Raises BrokenAvatar with every problem found, and AvatarReplaced while its files are
    being replaced.
    """
    return read_unchanged(lambda stamp: _load(folder, stamp), folder / MANIFEST_NAME)


def _load(folder: Path, stamp: Stamp) -> Avatar:
    manifest = read_manifest(folder)
    problems: list[str] = []
    paths = _file_paths(folder, manifest, problems)
    if "crop_rects" in paths:
        stamp.add(paths["crop_rects"])
    frames = _frames(folder, manifest, paths.get("background_video"), stamp, problems)
    rects = _rects(paths.get("crop_rects"), manifest, problems)
    problems += [f"{MANIFEST_NAME}: {each}" for each in outside_clip(manifest.reference, manifest.idle, manifest.frame_count)]
    if problems or frames is None:
        raise BrokenAvatar(problems)
    try:
        version = manifest_version(folder, manifest)
    except FileProblem as problem:
        raise BrokenAvatar(problem.of(MANIFEST_NAME)) from None
    return Avatar(
        id=folder.name,
        root=folder,
        fps=manifest.fps,
        frame_count=manifest.frame_count,
        width=manifest.width,
        height=manifest.height,
        loop=manifest.loop,
        paste=manifest.paste,
        mask=manifest.mask,
        network_path=paths["network"],
        audio_encoder_path=paths.get("audio_encoder"),
        frames=frames,
        rects=tuple(rects),
        features_path=paths.get("features"),
        rects_path=paths["crop_rects"],
        reference_frame=manifest.reference.frame,
        idle=manifest.idle,
        identity=Identity(version, stamp, partial(manifest_version, folder)),
    )


def outside_clip(reference: Reference | None, idle: FrameRange | None, frame_count: int) -> list[str]:
    """What is said of frames that a clip of that many does not have."""
    problems = (each.problem(frame_count) for each in (reference, idle) if each)
    return [problem for problem in problems if problem]


def first_frame_problems(path: Path, width: int, height: int) -> list[str]:
    """What the first frame's file says against its being whole and of that size."""
    try:
        header = inspect_picture(read_bounded(path, MAX_PICTURE_BYTES))
    except FileProblem as problem:
        return problem.of(f"{path.parent.name}/{path.name}")
    if (header.width, header.height) != (width, height):
        return [f"{path.parent.name}/{path.name} is {header.width}x{header.height}, the avatar is {width}x{height}"]
    return []


def _file_paths(folder: Path, manifest: Manifest, problems: list[str]) -> dict[str, Path]:
    """The files that `avatar.yaml` names, by role."""
    paths = {}
    for role in type(manifest.files).model_fields:
        entry: FileEntry | None = getattr(manifest.files, role)
        if entry is None:
            continue
        try:
            paths[role] = contained(folder, entry.path)
            check_regular(paths[role])
        except FileProblem as problem:
            problems += problem.of(f"{MANIFEST_NAME}: files.{role}: {entry.path!a}")
    return paths


def _frames(folder: Path, manifest: Manifest, video: Path | None, stamp: Stamp, problems: list[str]) -> Frames | None:
    """Where the manifest says that they are; None, and problems noted, when they are not."""
    width, height = manifest.width, manifest.height
    if manifest.files.background_video:
        if os.path.lexists(folder / FRAMES_FOLDER):
            problems.append(f"{FRAMES_FOLDER}: the frames are in the video that {MANIFEST_NAME} names: remove one of the two")
        if video is None:
            return None
        stamp.add(video)
        problems += header_problems(video, width, height)
        sha256 = manifest.files.background_video.sha256
        return VideoFrames(video, count=manifest.frame_count, width=width, height=height, sha256=sha256)
    paths = _frame_paths(folder, manifest, problems)
    if not paths:
        return None
    problems += first_frame_problems(paths[0], width, height)
    return PictureFrames(tuple(paths), width, height)


def _frame_paths(folder: Path, manifest: Manifest, problems: list[str]) -> list[Path]:
    try:
        found = numbered_frames(folder / FRAMES_FOLDER, first=(0,), inside=folder)
    except FileProblem as problem:
        problems += problem.of(f"{FRAMES_FOLDER}:")
        return []
    if len(found) != manifest.frame_count:
        problems.append(f"{FRAMES_FOLDER}: {len(found)} pictures, but {MANIFEST_NAME} says frame_count {manifest.frame_count}")
    return found


def _rects(path: Path | None, manifest: Manifest, problems: list[str]) -> list[Rect]:
    """The rectangles; what is wrong with the file itself has been noted when `path` is None."""
    if path is None:
        return []
    try:
        rects = read_rects(path)
    except FileProblem as problem:
        problems += problem.of(f"{path.name}:")
        return []
    if len(rects) != manifest.frame_count:
        problems.append(f"{path.name}: {len(rects)} rectangles for {manifest.frame_count} frames; each frame needs one")
    problems += [f"{path.name}: {problem}" for problem in misplaced(rects, manifest.width, manifest.height)]
    return rects
