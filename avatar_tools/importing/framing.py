"""The rectangle of every frame: from a file, from landmarks, or from landmarks found in the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avatar_kit.geometry import Rect, rect_from_landmarks
from avatar_kit.rectangles import read_rects
from avatar_kit.safe_files import FileProblem
from avatar_tools.detection import find_landmarks
from avatar_tools.importing.landmarks import Track, read_array, read_folder
from avatar_tools.importing.sources import PictureFolder
from avatar_tools.importing.squares import check_placed, kept_inside, smoothed, without_gaps
from avatar_tools.importing.videos import FrameSource, VideoClip

_OLD_LAYOUT_POINTS = 68


@dataclass(frozen=True, slots=True)
class Framing:
    """One rectangle inside the picture for each frame, and sentences about them."""

    rects: list[Rect]
    found: str
    """The origin of the rectangles."""
    derived: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def from_rectangles(path: Path, source: FrameSource, part: range, *, smooth: int | None) -> Framing:
    """From a file of rectangles, for those of the source's frames. Raises FileProblem."""
    given = read_rects(path, frame_count=source.count)
    indices, notes = _paired(len(given), source, part, "rectangles")
    rects = [given[index] for index in indices]
    if isinstance(source, PictureFolder) and source.first_number:
        notes.append(f"{source.name} is numbered from {source.first_number}: the first picture has the first rectangle, by rank")
    return _finished(rects, source, smooth, found=f"{len(given)} rectangles", notes=notes)


def from_landmarks(path: Path, source: FrameSource, part: range, *, inside: Path, smooth: int | None) -> Framing:
    """From a folder of `.lms` files, from which no link may lead out of `inside`, or from an array; for those of the source's
    frames. Raises FileProblem.
    """
    track = read_folder(path, inside=inside) if path.is_dir() else read_array(path)
    squares = _by_number(track, source) if path.is_dir() else track.squares
    indices, paired = _paired(len(squares), source, part, "frames with landmarks")
    filled, notes = without_gaps(squares, range(min(indices), max(indices) + 1))
    rects = [rect for index in indices if (rect := filled[index])]
    notes = [
        f"{path.name}: rectangles computed from points 1, 31 and 52 of each frame",
        *notes,
        *paired,
        *_by_rank(track, source),
    ]
    warning = (
        f"{path.name}: {track.points} points a frame; the rectangles come from points 1, 31 and 52 as in files of 110, which is "
        "what the family's tools do: look at the contact sheet of `lipsync avatar inspect`"
    )
    warnings = [warning] if track.points == _OLD_LAYOUT_POINTS else []
    found = f"{len(squares)} frames of {track.points} points"
    return _finished(rects, source, smooth, found=found, notes=notes, warnings=warnings)


def from_detection(
    source: FrameSource, *, detector: Path, landmarker: Path, smooth: int | None, progress: Callable[[int], None]
) -> Framing:
    """From landmarks that two models find in every frame; `progress` gets the number of frames done. Takes long.

    Raises FileProblem about the source, AvatarError about the models.
    """
    squares: list[Rect | None] = []
    for points in find_landmarks(source.pictures(), detector=detector, landmarker=landmarker):
        squares.append(None if points is None else rect_from_landmarks(points))
        progress(len(squares))
    filled, notes = without_gaps(squares)
    indices, _ = _paired(len(filled), source, range(source.count), "frames with landmarks")
    rects = [rect for index in indices if (rect := filled[index])]
    return _finished(rects, source, smooth, found="landmarks found in the pictures", notes=notes)


def _finished(
    rects: list[Rect], source: FrameSource, smooth: int | None, *, found: str, notes: list[str], warnings: Sequence[str] = ()
) -> Framing:
    check_placed(rects, source.width, source.height)
    if smooth is not None:
        rects = smoothed(rects, smooth)
        notes = [*notes, f"rectangles averaged over {smooth} frames; the network was trained on what they were before"]
    rects, cut = kept_inside(rects, source.width, source.height)
    return Framing(rects, found, tuple(notes), (*warnings, *cut))


def _paired(given: int, source: FrameSource, part: range, what: str) -> tuple[Sequence[int], list[str]]:
    """Pairs each frame of the part with one of the `given`: they are for the frames at 25 a second, a video's own, or only for
    some: then for the part, or for the first of the clip.
    """
    if given == source.count:
        return part, []
    if isinstance(source, VideoClip) and given == source.own_count:
        own = source.own_index[part.start : part.stop].tolist()
        return own, [f"{what} belong to the video's own {source.own_count} frames"]
    if len(part) < source.count and given == len(part):
        return range(given), [f"{given} {what}: for the frames that are taken"]
    if len(part) < source.count and part.stop <= given < source.count:
        return part, [f"{given} {what} for {source.count} frames: paired by rank, the first with the first"]
    counts = str(source.count)
    if isinstance(source, VideoClip) and source.own_count != source.count:
        counts = f"{source.own_count} (or, at 25 a second, {source.count})"
    raise FileProblem(f"has {given} {what}, but {source.name} has {counts} frames; each frame needs one")


def _by_number(track: Track, source: FrameSource) -> list[Rect | None]:
    """The squares, with None for pictures whose numbers have no landmarks, when there are fewer squares than pictures."""
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
