"""Compares an avatar with the videos of crops that older packages carry.

Serving computes the crops from frames and rectangles. If these are numbered differently, the mouth is pasted beside its place.
The video was made when the avatar was trained, and shows the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import CROP_SIZE, MOUTH_SIZE, Picture, crop_328, inner
from avatar_kit.safe_files import FileProblem
from avatar_kit.video.files import video_pictures

_SAMPLES = 16
_FOREIGN_DIFFERENCE = 16.0  # of 255, mean over the picture; video compression costs 1 to 4
_CLEARLY_BETTER = 0.6


def compare_videos(avatar: Avatar) -> tuple[list[str], dict[str, str]]:
    """Warnings and facts from the videos that the settings name. Raises BrokenAvatar for a frame that cannot be read."""
    warnings: list[str] = []
    facts: dict[str, str] = {}
    for key, path, size, part in (
        ("crops_video_path", avatar.crops_video_path, CROP_SIZE, _whole),
        ("rois_video_path", avatar.rois_video_path, MOUTH_SIZE, inner),
    ):
        if path is None:
            continue
        try:
            found, fact = _compare(avatar, path, size, part)
            warnings += [f"{key}: {path.name} {warning}" for warning in found]
            facts[key] = fact
        except FileProblem as problem:
            warnings += problem.of(f"{key}: {path.name}")
    return warnings, facts


def _compare(avatar: Avatar, path: Path, size: int, part: Callable[[Picture], Picture]) -> tuple[list[str], str]:
    last = avatar.frame_count - 1
    samples = sorted({round(last * step / (_SAMPLES - 1)) for step in range(_SAMPLES)})
    wanted = {index + shift for index in samples for shift in (-1, 0, 1)}
    shown: dict[int, Picture] = {}
    count = 0
    for picture in video_pictures(path):
        if picture.shape != (size, size, 3):
            raise FileProblem(f"is {picture.shape[1]}x{picture.shape[0]}; expected {size}x{size}")
        if count in wanted:
            shown[count] = picture
        count += 1
    if count != avatar.frame_count:
        return [f"has {count} frames, the avatar {avatar.frame_count}"], f"{path.name}, {count} frames"
    crops = {index: part(crop_328(avatar.read_frame(index), avatar.rects[index])) for index in samples if 0 < index < last}
    differences = {shift: _mean_difference(crops, shown, shift) for shift in (-1, 0, 1)}
    fact = f"{path.name}, {count} frames, differs by {differences[0]:.1f} of 255 on average"
    return _findings(differences), fact


def _findings(differences: dict[int, float]) -> list[str]:
    best = min(differences, key=differences.__getitem__)
    if best and differences[best] < _CLEARLY_BETTER * differences[0]:
        return [f"fits better one frame {'later' if best > 0 else 'earlier'}: frames and rectangles may be numbered differently"]
    if differences[0] > _FOREIGN_DIFFERENCE:
        return ["does not show what the rectangles cut out of the frames: they may belong to another avatar"]
    return []


def _mean_difference(crops: dict[int, Picture], shown: dict[int, Picture], shift: int) -> float:
    each = [float(np.abs(crop.astype(np.int16) - shown[index + shift]).mean()) for index, crop in crops.items()]
    return sum(each) / len(each) if each else 0.0


def _whole(crop: Picture) -> Picture:
    return crop
