"""Carries out a plan. When it fails, nothing is left on disk."""

from __future__ import annotations

import dataclasses
import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AUDIO_ENCODER_NAME
from avatar_kit.errors import AvatarError, BrokenAvatar, shortened
from avatar_kit.geometry import Rect
from avatar_kit.safe_files import FileProblem
from avatar_kit.writer import AvatarWriter
from avatar_tools.importing.framing import Framing, from_detection
from avatar_tools.importing.models import Prepared, prepare
from avatar_tools.importing.plan import Plan
from avatar_tools.importing.problems import ImportRefused
from avatar_tools.importing.sources import JPEG_QUALITY
from avatar_tools.importing.videos import FrameSource, VideoClip
from avatar_tools.progress import Progress, silent
from avatar_tools.reference_videos import compare_videos
from avatar_tools.video_check import check_video

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Imported:
    """A new avatar in its place, the steps that were done, and warnings."""

    avatar: Avatar
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def run_import(plan: Plan, progress: Progress = silent) -> Imported:
    """Builds the avatar beside its place and renames it at the end. Takes about 10 ms of a core for each frame.

    Memory does not follow the number of frames, but for the rectangle and the checksum of each. Raises ImportRefused or another
    AvatarError, with nothing left on disk; so it is when the caller is interrupted.
    """
    options = plan.options
    with _disk_problems(options.models_root):
        network = prepare(plan.network)
        notes, warnings = [network.note], list[str]()
        encoder = _encoder(plan, notes, warnings)
        framing = plan.framing or _found_framing(plan, progress)
        writer = AvatarWriter(
            options.models_root,
            options.avatar_id,
            width=plan.frames.width,
            height=plan.frames.height,
            loop=options.loop,
            paste=options.paste,
            mask=options.mask,
            reference_frame=options.reference_frame,
            idle=options.idle,
            idle_mouth=options.idle_mouth,
            replace=options.replace,
        )
        with writer:
            writer.set_network(network.content)
            if encoder:
                writer.set_audio_encoder(encoder.content)
            if plan.features is not None:
                writer.set_features(plan.features)
            if options.keep_video:
                _keep_video(writer, plan.frames, framing.rects, progress)
            else:
                written = _write_frames(writer, plan.frames, framing.rects, options.models_root, progress)
                notes += written[0]
                warnings += written[1]
            avatar = writer.finish()
    if plan.framing is None:
        notes += framing.derived
        warnings += framing.warnings
    return Imported(avatar, tuple(notes), (*warnings, *_witness(plan, avatar)))


def _encoder(plan: Plan, notes: list[str], warnings: list[str]) -> Prepared | None:
    """The avatar's own audio encoder. One that was only found nearby may fail."""
    if plan.encoder is None:
        return None
    try:
        prepared = prepare(plan.encoder)
    except AvatarError as error:
        if plan.encoder_asked_for:
            raise
        shared = plan.options.models_root / AUDIO_ENCODER_NAME
        warnings.append(f"the avatar has no audio encoder: {error}; sound can be served when there is a {shared}")
        return None
    notes.append(prepared.note)
    return prepared


def _found_framing(plan: Plan, progress: Progress) -> Framing:
    options, frames = plan.options, plan.frames
    if options.detector is None or options.landmarker is None:
        raise ImportRefused("landmarks cannot be found without --detector and --landmarker")
    try:
        return from_detection(
            frames,
            detector=options.detector,
            landmarker=options.landmarker,
            smooth=options.smooth,
            progress=lambda done: progress("landmarks", done, frames.count),
        )
    except FileProblem as problem:
        raise ImportRefused(problem.of(frames.name)) from None


def _keep_video(writer: AvatarWriter, frames: FrameSource, rects: list[Rect], progress: Progress) -> None:
    """Copies the video, and decodes each frame of the copy to check that it can be served."""
    if not isinstance(frames, VideoClip):
        raise ImportRefused(f"{frames.name} is no video that could be kept")
    copy = writer.set_video(frames.path, rects)
    try:
        check_video(copy, width=frames.width, height=frames.height, progress=partial(progress, "frames"))
    except FileProblem as problem:
        raise ImportRefused(problem.of(frames.name)) from None


def _write_frames(
    writer: AvatarWriter, frames: FrameSource, rects: list[Rect], models_root: Path, progress: Progress
) -> tuple[list[str], list[str]]:
    """Writes all frames. After a bad one it writes no more, and only checks the others.

    Returns notes and warnings.
    """
    problems: list[str] = []
    turned, see_through = 0, 0
    progress("frames", 0, frames.count)
    try:
        for index, file in enumerate(frames.files()):
            if index == 0 and isinstance(frames, VideoClip):
                _check_room(len(file.data) * frames.count, models_root)
            problems += file.problems
            turned += file.turned
            see_through += file.see_through
            if not problems:
                writer.add_frame(file.data, rects[index])
            progress("frames", index + 1, frames.count)
    except FileProblem as problem:
        problems += problem.of(frames.name)
    if problems:
        raise ImportRefused(shortened(problems))
    notes, warnings = list[str](), list[str]()
    if turned:
        notes.append(f"{frames.name}: {_pictures(turned)} stored turned: written upright, as JPEG of quality {JPEG_QUALITY}")
    if see_through:
        told = f"{frames.name}: {_pictures(see_through)} transparent in places"
        warnings.append(f"{told}: transparency is dropped, and the colours beneath show")
    return notes, warnings


def _check_room(size: int, models_root: Path) -> None:
    """Raises ImportRefused where frames of so many bytes, as the first one tells, do not fit the disk."""
    free = shutil.disk_usage(models_root).free
    if size > free:
        needs = (
            f"the frames of the video would take some {size / 1e9:.2g} GB in {models_root}, where {free / 1e9:.2g} GB are free"
        )
        raise ImportRefused(f"{needs}; nothing was kept; make room there or choose another --models-root")


def _pictures(count: int) -> str:
    return "1 picture is" if count == 1 else f"{count} pictures are"


def _witness(plan: Plan, avatar: Avatar) -> list[str]:
    """Warnings from the package's video of crops, if it has one: it shows the crops of training."""
    if plan.crops_video is None:
        return []
    try:
        warnings, _ = compare_videos(dataclasses.replace(avatar, crops_video_path=plan.crops_video))
    except BrokenAvatar as error:
        return list(error.problems)
    return [warning.removeprefix("crops_video_path: ") for warning in warnings]


@contextmanager
def _disk_problems(models_root: Path) -> Iterator[None]:
    """Turns errors of the file system into ImportRefused, with the place."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "make room there or choose another --models-root" if error.errno in _FULL else "can it be written to?"
        raise ImportRefused(f"the avatar cannot be written to {models_root}: {reason}; nothing was kept; {hint}") from error
