"""An avatar as the services see it, independent of its layout on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from avatar_kit.errors import AvatarReplaced, BrokenAvatar, as_broken_avatar, shown
from avatar_kit.frames import PictureFrames
from avatar_kit.geometry import Mask, Paste, Picture, Rect
from avatar_kit.held import Held
from avatar_kit.limits import FRAMES_UNKNOWN, max_picture_bytes
from avatar_kit.manifest import FRAMES_FOLDER, MANIFEST_NAME, FileEntry, Manifest, read_manifest
from avatar_kit.numbering import numbered_frames
from avatar_kit.pictures import check_size, inspect_picture
from avatar_kit.rectangles import misplaced, read_rects
from avatar_kit.reference_frame import Reference
from avatar_kit.safe_files import FileProblem, check_regular, contained, read_bounded
from avatar_kit.timeline import FrameRange, IdleMouth, Loop
from avatar_kit.versions import manifest_version

if TYPE_CHECKING:
    from avatar_kit.video.frames import VideoFrames

T = TypeVar("T")
Frames: TypeAlias = "PictureFrames | VideoFrames"

__all__ = ["Avatar", "Loop", "Mask", "Paste", "Picture", "Rect", "load_avatar"]


@dataclass(frozen=True, slots=True)
class Avatar:
    """Everything needed to serve an avatar. Pictures and networks stay on disk until they are read.

    Pictures always come from the files that were loaded, even if others have replaced them. For the avatar's other files this
    holds inside `held.in_place`.
    """

    id: str
    root: Path
    """Folder of the avatar; `frame_name` and messages are relative to it."""
    fps: float
    frame_count: int
    width: int
    height: int
    loop: Loop
    paste: Paste
    mask: Mask
    network_path: Path
    audio_encoder_path: Path | None
    """The avatar's own encoder, or None for the shared one: see `AvatarCatalog.audio_encoder_path`."""
    frames: Frames = field(repr=False)
    """The pictures; read them with `read_frame`."""
    rects: tuple[Rect, ...] = field(repr=False)
    held: Held = field(repr=False, compare=False)
    """The folder, or the file, that the avatar was loaded from."""
    features_path: Path | None = None
    rects_path: Path | None = None
    crops_video_path: Path | None = None
    rois_video_path: Path | None = None
    reference_frame: int | None = None
    """Index of the picture whose unmasked crop the network sees for every frame. None: each picture's own crop."""
    idle: FrameRange | None = None
    """The part of the clip shown without speech; None: the whole clip, as in speech."""
    idle_mouth: IdleMouth = IdleMouth.REST
    """The mouth in those pictures."""
    version: str = ""
    """Identifies the content of the files, independent of their place: two services with equal versions fit together."""

    @property
    def video(self) -> VideoFrames | None:
        """The video that holds the pictures, or None. A video is cheap to read only in order."""
        return None if isinstance(self.frames, PictureFrames) else self.frames

    @property
    def frame_paths(self) -> tuple[Path, ...]:
        """The picture files, one for each index; empty when the pictures are in a video."""
        return () if self.video else self.frames.files

    def frame_name(self, index: int) -> str:
        """Returns the name of the picture or video for messages, never the full path."""
        return self.frames.name(index)

    def read_frame(self, index: int) -> Picture:
        """Decodes picture `index`, 0 .. frame_count - 1, from disk: [height, width, 3]. Thread-safe.

        Raises BrokenAvatar if it is missing, truncated, damaged or not of the avatar's size, and AvatarReplaced if it is gone
        together with the folder that the avatar was loaded from.
        """
        if not 0 <= index < self.frame_count:
            raise IndexError(f"frame {index} of {self.frame_count}")
        return self._told(index, partial(self.frames.read, index))

    def frames_in_order(self) -> Generator[tuple[int, Callable[[], Picture]]]:
        """Yields each index and a function that reads its picture, raising as `read_frame` does: the cheapest way to read all.

        Use the generator from one thread at a time, the functions from any thread.
        """
        with closing(self.frames.in_order()) as frames:
            for index in range(self.frame_count):
                _, read = self._told(index, partial(next, frames))
                yield index, partial(self._told, index, read)

    def _told(self, index: int, read: Callable[[], T]) -> T:
        try:
            with as_broken_avatar(self.frame_name(index)):
                return read()
        except BrokenAvatar:
            if self.held.is_in_place():
                raise
            raise AvatarReplaced("the avatar's files were replaced and are gone; load it again") from None


@as_broken_avatar()
def load_avatar(folder: Path) -> Avatar:
    """Loads the avatar of format version 1 in `folder`, whose name is its id.

    Reads the manifest, the rectangles, the list of pictures and the header of the first one, or of the video. `verify_avatar`
    checks the checksums and everything else. Raises BrokenAvatar with every problem found, and AvatarReplaced if the folder is
    replaced meanwhile.
    """
    with as_broken_avatar(MANIFEST_NAME):
        held = Held(folder)
    try:
        with held.in_place():
            return _load(held)
    except BaseException:
        held.close()
        raise


def _load(held: Held) -> Avatar:
    folder = held.path
    manifest = read_manifest(held.now)
    problems: list[str] = []
    names = _file_names(held.now, manifest, problems)
    frames = _frames(held, manifest, names.get("background_video"), problems)
    there = len(frames.names) if isinstance(frames, PictureFrames) else manifest.frame_count if frames else FRAMES_UNKNOWN
    rects = _rects(held.now, names.get("crop_rects"), manifest, problems, frame_count=min(there, manifest.frame_count))
    problems += [f"{MANIFEST_NAME}: {each}" for each in outside_clip(manifest.reference, manifest.idle, manifest.frame_count)]
    if problems or frames is None:
        raise BrokenAvatar(problems)
    with as_broken_avatar(MANIFEST_NAME):
        version = manifest_version(held.now, manifest)
    files = {role: folder / name for role, name in names.items()}
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
        network_path=files["network"],
        audio_encoder_path=files.get("audio_encoder"),
        frames=frames,
        rects=tuple(rects),
        features_path=files.get("features"),
        rects_path=files["crop_rects"],
        reference_frame=manifest.reference.frame,
        idle=manifest.idle,
        idle_mouth=manifest.idle_mouth,
        version=version,
        held=held,
    )


def outside_clip(reference: Reference | None, idle: FrameRange | None, frame_count: int) -> list[str]:
    """Lists the problems of a reference and an idle range that a clip of `frame_count` pictures does not have."""
    problems = (each.problem(frame_count) for each in (reference, idle) if each)
    return [problem for problem in problems if problem]


def _file_names(folder: Path, manifest: Manifest, problems: list[str]) -> dict[str, str]:
    """Returns the files that `avatar.yaml` names, by role."""
    names = {}
    for role in type(manifest.files).model_fields:
        entry: FileEntry | None = getattr(manifest.files, role)
        if entry is None:
            continue
        try:
            check_regular(contained(folder, entry.path), manifest.most_bytes(role))
            names[role] = entry.path
        except FileProblem as problem:
            problems += problem.of(f"{MANIFEST_NAME}: files.{role}: {shown(entry.path)}")
    return names


def _frames(held: Held, manifest: Manifest, video: str | None, problems: list[str]) -> Frames | None:
    """Opens the pictures that the manifest names; notes problems and returns None if they are not there."""
    width, height = manifest.width, manifest.height
    if manifest.files.background_video:
        if os.path.lexists(held.now / FRAMES_FOLDER):
            problems.append(f"{FRAMES_FOLDER}: the frames are in the video that {MANIFEST_NAME} names: remove one of the two")
        if video is None:
            return None
        from avatar_kit.video.frames import VideoFrames, header_problems

        problems += header_problems(held.now / video, width, height)
        sha256 = manifest.files.background_video.sha256
        held_video = Held(held.path / video, now=held.now / video)
        return VideoFrames(held_video, count=manifest.frame_count, width=width, height=height, sha256=sha256)
    paths = _frame_paths(held.now, manifest, problems)
    if not paths:
        return None
    try:
        header = inspect_picture(read_bounded(paths[0], max_picture_bytes(width, height)))
        check_size(header.width, header.height, width, height)
    except FileProblem as problem:
        problems += problem.of(f"{FRAMES_FOLDER}/{paths[0].name}")
    return PictureFrames(held, tuple(path.name for path in paths), width, height, below=FRAMES_FOLDER)


def _frame_paths(folder: Path, manifest: Manifest, problems: list[str]) -> list[Path]:
    try:
        found = numbered_frames(folder / FRAMES_FOLDER, first=(0,), inside=folder)
    except FileProblem as problem:
        problems += problem.of(f"{FRAMES_FOLDER}:")
        return []
    if len(found) != manifest.frame_count:
        problems.append(f"{FRAMES_FOLDER}: {len(found)} pictures, but {MANIFEST_NAME} says frame_count {manifest.frame_count}")
    return found


def _rects(folder: Path, name: str | None, manifest: Manifest, problems: list[str], *, frame_count: int) -> list[Rect]:
    """Reads the rectangles. `name` is None if a problem of the file itself has been noted."""
    if name is None:
        return []
    try:
        rects = read_rects(folder / name, frame_count=frame_count)
    except FileProblem as problem:
        problems += problem.of(f"{name}:")
        return []
    if len(rects) != manifest.frame_count:
        problems.append(f"{name}: {len(rects)} rectangles for {manifest.frame_count} frames; each frame needs one")
    problems += [f"{name}: {problem}" for problem in misplaced(rects, manifest.width, manifest.height)]
    return rects
