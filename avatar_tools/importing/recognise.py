"""Finds the ingredients of an avatar in a training folder by the names that the family's tools give.

The layouts overlap, and packages may be incomplete, so each ingredient is searched for in every place where one of the tools puts
it. The layout's name is for people.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from avatar_kit.features import FEATURE_NAMES
from avatar_kit.manifest import MANIFEST_NAME
from avatar_kit.numbering import is_frame_name
from avatar_kit.safe_files import FileProblem, stays_in
from avatar_tools.importing.models import newest_checkpoint
from avatar_tools.importing.problems import ImportRefused

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts"})

_FRAME_FOLDERS = ("full_body_img", "frames")
_MAIN_VIDEO = "full_body_video.mp4"
_CROPS_VIDEO = "crops_328_video.mp4"
_OTHER_VIDEOS = frozenset({_CROPS_VIDEO, "rois_320_video.mp4", "model_inputs_video.mp4"})
_LANDMARKS = ("landmarks", "landmarks_2d.npy")
_RECTANGLES = ("cache/crop_rectangles.json", "crop_rectangles.json", "crop_rects.json")
_NETWORKS = ("models/generator.onnx", "checkpoint/model_best.onnx")
_CHECKPOINTS = "checkpoint"
_ENCODERS = ("models/audio_encoder.onnx", "audio_encoder.onnx")
_RESEARCH_ENCODER = Path("model", "checkpoints", "audio_visual_encoder.pth")

_LAYOUT_SIGNS = (
    ("package v2", ("dataset_manifest.json", _MAIN_VIDEO, "cache/crop_rectangles.json", "models/generator.onnx")),
    ("the research layout", ("full_body_img",)),
    ("the Go servers' layout", ("checkpoint/model_best.onnx",)),
    ("the oldest packages' layout", ("landmarks_2d.npy",)),
)


@dataclass(slots=True)
class Found:
    """The path of each ingredient, None without it. Paths inside `root` have been checked not to lead out of it."""

    root: Path
    layout: str
    frames: Path | None = None
    video: Path | None = None
    landmarks: Path | None = None
    rectangles: Path | None = None
    network: Path | None = None
    audio_encoder: Path | None = None
    features: Path | None = None
    crops_video: Path | None = None
    unused: list[str] = field(default_factory=list)
    """Sentences about further ingredients, which are ignored."""

    def shown(self, path: Path) -> str:
        """A path for messages: relative to the source if it is inside, else to the working directory."""
        for base in (self.root, Path.cwd()):
            if path != base and path.is_relative_to(base):
                return str(path.relative_to(base))
        return str(path)


def recognise(source: Path) -> Found:
    """Searches `source`, a folder or a video. Raises ImportRefused when it cannot be a source, or when a link leads out of it."""
    if source.is_file():
        if source.suffix.lower() not in VIDEO_SUFFIXES:
            kinds = ", ".join(sorted(VIDEO_SUFFIXES))
            raise ImportRefused(f"{source.name} is neither a folder nor a video by its name ({kinds})")
        return Found(source, "a video", video=source)
    if not source.is_dir():
        raise ImportRefused(f"{source}: {'is neither a file nor a folder' if os.path.lexists(source) else 'is missing'}")
    if (source / MANIFEST_NAME).exists():
        raise ImportRefused(f"{source} is an avatar already ({MANIFEST_NAME}): copy the folder into the models root")
    return _Search(source).found()


class _Search:
    """One search of a folder; collects the links that lead out of it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found = Found(root, _layout(root))
        self._problems: list[str] = []

    def found(self) -> Found:
        found = self._found
        found.frames = self._frames()
        found.video = self._video()
        found.landmarks = self._first(_LANDMARKS)
        found.rectangles = self._first(_RECTANGLES)
        found.network = self._first(_NETWORKS) or self._checkpoint()
        found.audio_encoder = self._first(_ENCODERS) or self._research_encoder()
        found.features = self._first(FEATURE_NAMES)
        found.crops_video = self._first((_CROPS_VIDEO,))
        if found.frames and found.video:
            found.unused.append(f"{found.shown(found.video)}: the frames are there as pictures")
            found.video = None
        if found.rectangles and found.landmarks:
            found.unused.append(f"{found.shown(found.landmarks)}: the rectangles are there")
            found.landmarks = None
        if self._problems:
            raise ImportRefused(self._problems)
        return found

    def _first(self, places: Iterable[str]) -> Path | None:
        """The first of the places that exists; the other existing ones are noted."""
        there = [path for place in places if self._there(path := self._root / place)]
        self._found.unused += [
            f"{path.relative_to(self._root)}: {there[0].relative_to(self._root)} comes first" for path in there[1:]
        ]
        return there[0] if there else None

    def _there(self, path: Path) -> bool:
        if not os.path.lexists(path):
            return False
        if not stays_in(self._root, path):
            self._problems.append(f"{path.relative_to(self._root)} leads out of {self._root.name} through a symbolic link")
            return False
        return True

    def _frames(self) -> Path | None:
        folders = [self._root / name for name in _FRAME_FOLDERS]
        there = [folder for folder in [*folders, self._root] if self._there(folder) and _has_frames(folder)]
        self._found.unused += [f"{self._found.shown(folder)}: {there[0].name} comes first" for folder in there[1:]]
        return there[0] if there else None

    def _video(self) -> Path | None:
        """The known name, the folder's own name, or the only video that is left."""
        root = self._root
        videos = sorted(
            path for path in root.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.name not in _OTHER_VIDEOS
        )
        named = [path for path in videos if path.name == _MAIN_VIDEO] or [
            path for path in videos if path.stem == root.resolve().name
        ]
        chosen = named[:1] or videos
        if len(chosen) == 1:
            return chosen[0] if self._there(chosen[0]) else None
        if chosen and not self._found.frames:
            names = ", ".join(path.name for path in chosen[:5])
            self._problems.append(f"there are several videos ({names}): name the one that is meant as the source")
        return None

    def _checkpoint(self) -> Path | None:
        """From the folder's own checkpoints, or from those of the tree that it lies in: dataset/NAME beside checkpoint/NAME."""
        root = self._root.resolve()
        for folder in (
            root / _CHECKPOINTS,
            root.parent / _CHECKPOINTS / root.name,
            root.parent.parent / _CHECKPOINTS / root.name,
        ):
            if not folder.is_dir():
                continue
            try:
                path = newest_checkpoint(folder)
            except FileProblem as problem:
                self._problems += problem.of(f"{folder.parent.name}/{folder.name}")
                return None
            if path is None:
                continue
            if stays_in(root if folder.is_relative_to(root) else folder, path):
                return self._root / path.relative_to(root) if path.is_relative_to(root) else path
            self._problems.append(f"{path.name} leads out of {folder.name} through a symbolic link")
        onnx_files = sorted(path for path in self._root.glob("*.onnx") if path.name not in _ENCODERS)
        return onnx_files[0] if len(onnx_files) == 1 and self._there(onnx_files[0]) else None

    def _research_encoder(self) -> Path | None:
        root = self._root.resolve()
        return next((path for tree in (root.parent.parent, root.parent) if (path := tree / _RESEARCH_ENCODER).is_file()), None)


def _layout(root: Path) -> str:
    for name, signs in _LAYOUT_SIGNS:
        if any((root / sign).exists() for sign in signs):
            return name
    return "a folder of frames" if _has_frames(root) else "a folder"


def _has_frames(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(is_frame_name(entry.name) for entry in entries)
    except OSError:
        return False
