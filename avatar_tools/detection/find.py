"""Landmarks of one person in a row of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from avatar_kit.errors import AvatarError
from avatar_kit.geometry import Picture
from avatar_tools.detection.landmarker import Landmarker, Landmarks
from avatar_tools.detection.scrfd import FaceDetector, main_face


def find_landmarks(
    frames: Iterable[Picture], *, detector: Path, landmarker: Path, progress: Callable[[int], None] | None = None
) -> Iterator[Landmarks | None]:
    """For each picture the main face's [110, 2] landmarks in its pixels, None where there is no face.

    Both models are opened and tried before this returns; then one picture is looked at for each item asked for, which takes tens
    of milliseconds. `progress` is told how many are done. Raises BrokenAvatar about the models, also from the iterator.
    """
    return _found(frames, FaceDetector(detector), Landmarker(landmarker), progress)


def model_problems(*, detector: Path, landmarker: Path) -> list[str]:
    """What keeps the two models from being used, as far as trying them on a blank picture tells; empty when nothing does."""
    problems: list[str] = []
    for open_model, path in ((FaceDetector, detector), (Landmarker, landmarker)):
        try:
            open_model(path)
        except AvatarError as error:
            problems += error.problems
    return problems


def _found(
    frames: Iterable[Picture], detector: FaceDetector, landmarker: Landmarker, progress: Callable[[int], None] | None
) -> Iterator[Landmarks | None]:
    for done, picture in enumerate(frames, 1):
        height, width = picture.shape[:2]
        face = main_face(detector.faces(picture), width=width, height=height)
        points = None if face is None else landmarker.landmarks(picture, face)
        if progress:
            progress(done)
        yield points
