"""Finds the landmarks of one person in a sequence of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from avatar_kit.errors import AvatarError
from avatar_kit.geometry import Picture
from avatar_tools.detection.landmarker import Landmarker, Landmarks
from avatar_tools.detection.scrfd import FaceDetector, main_face


def find_landmarks(frames: Iterable[Picture], *, detector: Path, landmarker: Path) -> Iterator[Landmarks | None]:
    """Yields for each picture the main face's [110, 2] landmarks in its pixels, None without a face.

    Both models are opened and tried before this returns. Then each item takes one picture and tens of milliseconds. Raises
    BrokenAvatar about the models, also from the iterator.
    """
    return _found(frames, FaceDetector(detector), Landmarker(landmarker))


def model_problems(*, detector: Path, landmarker: Path) -> list[str]:
    """The reasons why the two models cannot be used, found by trying them on a blank picture; empty when they can."""
    problems: list[str] = []
    for open_model, path in ((FaceDetector, detector), (Landmarker, landmarker)):
        try:
            open_model(path)
        except AvatarError as error:
            problems += error.problems
    return problems


def _found(frames: Iterable[Picture], detector: FaceDetector, landmarker: Landmarker) -> Iterator[Landmarks | None]:
    for picture in frames:
        height, width = picture.shape[:2]
        face = main_face(detector.faces(picture), width=width, height=height)
        yield None if face is None else landmarker.landmarks(picture, face)
