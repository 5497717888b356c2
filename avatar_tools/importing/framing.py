"""The rectangle of every frame, from whatever the source has: rectangles, landmarks, or landmarks found in the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avatar_kit.geometry import Rect, rect_from_landmarks
from avatar_kit.rectangles import read_rects
from avatar_kit.safe_files import FileProblem
from avatar_tools.detection import find_landmarks
from avatar_tools.importing.landmarks import Track, read_array, read_folder
from avatar_tools.importing.sources import FrameSource, PictureFolder
from avatar_tools.importing.squares import check_placed, kept_inside, smoothed, without_gaps
from avatar_tools.importing.videos import VideoClip

_OLD_LAYOUT_POINTS = 68


@dataclass(frozen=True, slots=True)
class Framing:
    """One rectangle inside the picture for each frame, and what is to be said about them."""

    rects: list[Rect]
    found: str
    """What they were made from."""
    derived: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def from_rectangles(path: Path, source: FrameSource, *, smooth: int | None) -> Framing:
    """From a file of rectangles. Raises FileProblem."""
    given = read_rects(path, frame_count=source.count)
    rects, notes = _paired(given, source, "rectangles")
    if isinstance(source, PictureFolder) and source.first_number:
        notes.append(f"{source.name} is numbered from {source.first_number}: the first picture has the first rectangle, by rank")
    return _finished(rects, source, smooth, found=f"{len(given)} rectangles", notes=notes)


def from_landmarks(path: Path, source: FrameSource, *, inside: Path, smooth: int | None) -> Framing:
    """From a folder of `.lms` files, from which no link may lead out of `inside`, or from an array. Raises FileProblem."""
    track = read_folder(path, inside=inside) if path.is_dir() else read_array(path)
    filled, notes = without_gaps(_by_number(track, source) if path.is_dir() else track.squares)
    rects, paired = _paired(filled, source, "frames with landmarks")
    notes = [
        f"{path.name}: rectangles computed from points 1, 31 and 52 of each frame",
        *notes,
        *paired,
        *_by_rank(track, source),
    ]
    framing = _finished(rects, source, smooth, found=f"{len(filled)} frames of {track.points} points", notes=notes)
    if track.points != _OLD_LAYOUT_POINTS:
        return framing
    warning = (
        f"{path.name}: {track.points} points a frame; the rectangles come from points 1, 31 and 52 as in files of 110, which is "
        "what the family's tools do: look at the contact sheet of `lipsync avatar inspect`"
    )
    return Framing(framing.rects, framing.found, framing.derived, (warning, *framing.warnings))


def from_detection(
    source: FrameSource, *, detector: Path, landmarker: Path, smooth: int | None, progress: Callable[[int], None]
) -> Framing:
    """From landmarks that two models find in every frame; `progress` is told how many are done. Takes long.

    Raises FileProblem about the source, AvatarError about the models.
    """
    squares: list[Rect | None] = []
    for points in find_landmarks(source.pictures(), detector=detector, landmarker=landmarker):
        squares.append(None if points is None else rect_from_landmarks(points))
        progress(len(squares))
    filled, notes = without_gaps(squares)
    rects, _ = _paired(filled, source, "frames with landmarks")
    return _finished(rects, source, smooth, found="landmarks found in the pictures", notes=notes)


def _finished(rects: list[Rect], source: FrameSource, smooth: int | None, *, found: str, notes: list[str]) -> Framing:
    check_placed(rects, source.width, source.height)
    if smooth is not None:
        rects = smoothed(rects, smooth)
        notes = [*notes, f"rectangles averaged over {smooth} frames; the network was trained on what they were before"]
    rects, warnings = kept_inside(rects, source.width, source.height)
    return Framing(rects, found, tuple(notes), tuple(warnings))


def _paired(given: Sequence[Rect], source: FrameSource, what: str) -> tuple[list[Rect], list[str]]:
    """One for each frame at 25 a second, whether `given` counts those or a video's own."""
    if len(given) == source.count:
        return list(given), []
    if isinstance(source, VideoClip) and len(given) == source.own_count:
        return [given[index] for index in source.own_index], [f"{what} belong to the video's own {source.own_count} frames"]
    counts = str(source.count)
    if isinstance(source, VideoClip) and source.own_count != source.count:
        counts = f"{source.own_count} (or, at 25 a second, {source.count})"
    raise FileProblem(f"has {len(given)} {what}, but {source.name} has {counts} frames; each frame needs one")


def _by_number(track: Track, source: FrameSource) -> list[Rect | None]:
    """The squares; where there are too few for the pictures, but with numbers that these have, the others are missing."""
    if not isinstance(source, PictureFolder):
        return track.squares
    before = track.first_number - source.first_number
    after = source.count - before - len(track.squares)
    if min(before, after) < 0 or len(track.squares) == source.count:
        return track.squares
    return [*[None] * before, *track.squares, *[None] * after]


def _by_rank(track: Track, source: FrameSource) -> list[str]:
    if not isinstance(source, PictureFolder) or source.first_number == track.first_number:
        return []
    numbered = f"{source.name} is numbered from {source.first_number}, the landmarks from {track.first_number}"
    return [f"{numbered}: paired by rank, the first with the first"]
