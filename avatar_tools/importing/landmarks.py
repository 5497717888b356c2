"""Reads landmarks from disk: a text file for each frame, or one array for all.

Of each frame's points only the square that training cropped is kept, so that memory does not follow the length of the clip.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatar_kit.errors import shortened, shown
from avatar_kit.geometry import MIN_LANDMARKS, Rect, rect_from_landmarks
from avatar_kit.numbering import MAX_FRAMES
from avatar_kit.safe_files import FileProblem, open_array, read_bounded, stays_in

MAX_LMS_BYTES = 64 * 1024  # 110 points take 2 KB

_LMS_NAME = re.compile(r"([0-9]{1,9})\.lms", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Track:
    """The crop square of each frame, unchanged; None for a frame without landmarks."""

    squares: list[Rect | None]
    points: int
    """The number of landmarks in the first frame that has some."""
    first_number: int
    """The first file's number."""


def read_points(path: Path) -> NDArray[np.float64]:
    """[points, 2] of an `.lms` file: x and y on each line, whole numbers or not. Raises FileProblem."""
    text = read_bounded(path, MAX_LMS_BYTES).decode("ascii", "replace")
    rows = [line.split() for line in text.splitlines() if not line.isspace() and line]
    for row in rows:
        if len(row) != 2:
            raise FileProblem(f"has a line that is not an x and a y: {shown(' '.join(row), 40)}")
    try:
        points = np.array([[float(x), float(y)] for x, y in rows], np.float64).reshape(-1, 2)
    except ValueError:
        bad = next(token for row in rows for token in row if not _is_number(token))
        raise FileProblem(f"has something that is not a number: {shown(bad, 40)}") from None
    if not np.isfinite(points).all():
        raise FileProblem("has coordinates that are not finite numbers (NaN or infinity)")
    if len(points) < MIN_LANDMARKS:
        raise FileProblem(f"has {len(points)} points; at least {MIN_LANDMARKS} are needed, the family's files have 110")
    return points


def read_folder(folder: Path, *, inside: Path) -> Track:
    """The `<number>.lms` files of a folder, in the order of their numbers, which run from 0 or 1; numbers may be missing.

    No symbolic link may lead out of `inside`. Raises FileProblem with every bad file.
    """
    files = _numbered(folder, inside)
    if not files:
        raise FileProblem("has no .lms files in it")
    first, last = min(files), max(files)
    if first > 1:
        raise FileProblem(f"begins with {files[first].name}; landmarks are numbered from 0 or 1")
    if last >= MAX_FRAMES:
        raise FileProblem(f"has {files[last].name}, a number past the {MAX_FRAMES} frames allowed")
    squares: list[Rect | None] = []
    problems: list[str] = []
    counts = []
    for number in range(first, last + 1):
        square = None
        try:
            if number in files:
                points = read_points(files[number])
                counts.append(len(points))
                square = rect_from_landmarks(points)
        except FileProblem as problem:
            problems += problem.of(files[number].name)
        squares.append(square)
    if problems:
        raise FileProblem([f"has a bad file: {problem}" for problem in shortened(problems)])
    return Track(squares, counts[0], first)


def read_array(path: Path) -> Track:
    """A `landmarks_2d.npy`: numbers [frames, points, 2]. A frame with NaN alone has no landmarks.

    Nothing is unpickled. Raises FileProblem.
    """
    stored = open_array(path)
    if stored.dtype.kind not in "fiu" or stored.ndim != 3 or stored.shape[1] < MIN_LANDMARKS or stored.shape[2] != 2:
        wanted = f"numbers [frames, {MIN_LANDMARKS} or more, 2]"
        raise FileProblem(f"holds {stored.dtype} of shape {stored.shape}; expected {wanted}")
    squares: list[Rect | None] = []
    problems = []
    for index, points in enumerate(stored):
        finite = np.isfinite(points)
        if finite.all():
            squares.append(rect_from_landmarks(points))
            continue
        squares.append(None)
        if finite.any():
            problems.append(f"has coordinates that are not finite numbers in frame {index}")
    if problems:
        raise FileProblem(shortened(problems))
    return Track(squares, stored.shape[1], 0)


def _numbered(folder: Path, inside: Path) -> dict[int, Path]:
    if not stays_in(inside, folder):
        raise FileProblem("leads out of the folder through a symbolic link")
    files: dict[int, Path] = {}
    problems = []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not (match := _LMS_NAME.fullmatch(entry.name)):
                    continue
                if entry.is_symlink() and not stays_in(inside, Path(entry.path)):
                    problems.append(f"has {entry.name}, which leads out of the folder through a symbolic link")
                if int(match[1]) in files:
                    problems.append(f"has one frame twice: {files[int(match[1])].name} and {entry.name}")
                files[int(match[1])] = folder / entry.name
    except OSError as error:
        raise FileProblem(f"cannot be listed: {error.strerror}") from None
    if problems:
        raise FileProblem(shortened(problems))
    return files


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True
