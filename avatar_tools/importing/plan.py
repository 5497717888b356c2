"""Plans an import before anything is written: the source's content, the steps, and all reasons against it."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import outside_clip
from avatar_kit.catalog import AUDIO_ENCODER_NAME
from avatar_kit.errors import AvatarError, one_line
from avatar_kit.features import MISSING_ROWS, open_features
from avatar_kit.ids import check_avatar_id
from avatar_kit.onnx_io import DEMO_PRODUCER
from avatar_kit.reference_frame import Reference
from avatar_kit.safe_files import FileProblem, stays_in
from avatar_kit.timeline import IdleMouth
from avatar_kit.video.frames import checked_index
from avatar_kit.writer import refuse_taken
from avatar_tools.checkpoints import Kind
from avatar_tools.detection import model_problems
from avatar_tools.importing.framing import Framing, from_landmarks, from_rectangles
from avatar_tools.importing.models import ModelSource, chosen_checkpoint, open_model
from avatar_tools.importing.options import ImportOptions
from avatar_tools.importing.problems import ImportRefused
from avatar_tools.importing.recognise import Found, recognise
from avatar_tools.importing.sources import PictureFolder, open_folder
from avatar_tools.importing.squares import check_smoothing
from avatar_tools.importing.videos import FrameSource, open_video

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """An import that is possible, as far as can be known without reading every picture."""

    options: ImportOptions
    layout: str
    frames: FrameSource
    framing: Framing | None
    """None: the landmarks have to be found in the pictures first."""
    network: ModelSource
    encoder: ModelSource | None
    encoder_asked_for: bool
    """The import fails without it, because it was named or is in the source."""
    features: NDArray[np.float32] | None = field(repr=False)
    crops_video: Path | None
    found: tuple[tuple[str, str], ...]
    derived: tuple[str, ...]
    actions: tuple[str, ...]
    warnings: tuple[str, ...]

    def text(self) -> str:
        """The plan for people."""
        lines = [f"found: {self.layout}, {self.options.source}"]
        lines += [f"  {label:<14}{what}" for label, what in self.found]
        for title, entries in (("derived:", self.derived), ("to do:", self.actions)):
            if entries:
                lines += [title, *(f"  {entry}" for entry in entries)]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "".join(f"{one_line(line)}\n" for line in lines)


def plan_import(options: ImportOptions) -> Plan:
    """Raises ImportRefused with every problem, InvalidAvatarId, AvatarExists. Writes nothing."""
    check_avatar_id(options.avatar_id)
    if os.path.lexists(options.models_root) and not options.models_root.is_dir():
        raise ImportRefused(f"{options.models_root} is not a folder: choose another --models-root")
    refuse_taken(options.models_root, options.avatar_id, replace=options.replace)
    if options.smooth is not None:
        check_smoothing(options.smooth)
    if stays_in(options.models_root / options.avatar_id, options.source):
        raise ImportRefused(f"{options.source} would be replaced by the avatar made from it: choose another id or models root")
    return _Planning(options, recognise(options.source)).plan()


class _Planning:
    """Makes one plan, and collects the problems."""

    def __init__(self, options: ImportOptions, found: Found) -> None:
        self._options, self._found = options, found
        self._problems: list[str] = []
        self._facts: list[tuple[str, str]] = []
        self._derived: list[str] = []
        self._warnings: list[str] = []
        self._left_out: list[str] = []

    def plan(self) -> Plan:
        options, found = self._options, self._found
        clip = self._frames()
        part = self._part(clip) if clip else None
        framing = self._framing(clip, part) if clip and part else None
        frames = clip.part(part) if clip and part else None
        network = self._network()
        encoder = self._encoder(network)
        features = self._features(clip.count, part) if clip and part else None
        if frames:
            self._problems += outside_clip(Reference(options.reference_frame), options.idle, frames.count)
        self._facts += [("passed over", unused) for unused in found.unused]
        if self._problems or frames is None or network is None:
            raise ImportRefused(list(dict.fromkeys([*self._problems, *self._left_out])))
        return Plan(
            options=options,
            layout=found.layout,
            frames=frames,
            framing=framing,
            network=network,
            encoder=encoder,
            encoder_asked_for=bool(options.audio_encoder or (encoder and encoder.path.is_relative_to(found.root))),
            features=features,
            crops_video=None if options.part else found.crops_video,
            found=tuple(self._facts),
            derived=tuple(self._derived),
            actions=tuple(self._actions(frames, framing, network, encoder)),
            warnings=tuple(self._warnings),
        )

    def _frames(self) -> FrameSource | None:
        found = self._found
        path = found.frames or found.video
        if path is None:
            self._problems.append(f"{found.root.name} has no frames: neither numbered pictures nor a video")
            return None
        if found.frames and self._options.keep_video:
            self._problems.append(f"--keep-video: the frames of {found.root.name} are pictures; name a video as SOURCE")
        return self._tried(path, self._folder if found.frames else self._clip)

    def _folder(self, path: Path) -> FrameSource:
        folder = open_folder(path, inside=self._found.root)
        self._fact("frames", path, f"{folder.count} pictures, {_size(folder)}, numbered from {folder.first_number}")
        return folder

    def _clip(self, path: Path) -> FrameSource:
        clip = open_video(path)
        if self._options.keep_video:
            checked_index(path)
        self._fact("frames", path, f"video, {clip.own_count} frames, {_size(clip)}, {clip.rate:.6g} frames a second")
        if clip.converted:
            self._derived.append(f"{clip.count} frames at 25 a second from the video's {clip.own_count}")
        return clip

    def _part(self, clip: FrameSource) -> range | None:
        """The frames to import; None, with a problem noted, when the source lacks them."""
        if self._options.part is None:
            return range(clip.count)
        if self._options.keep_video:
            self._problems.append(f"--frames: {clip.name} can only be kept whole; leave out --keep-video, or cut it before")
            return None
        try:
            part = self._options.part.of(clip.count)
        except FileProblem as problem:
            self._problems += problem.of(clip.name)
            return None
        self._derived.append(f"frames {part.start} to {part.stop - 1} of {clip.count}, which are counted from 0 in the avatar")
        return part

    def _framing(self, frames: FrameSource, part: range) -> Framing | None:
        options, found = self._options, self._found
        looked_for = options.landmarks or options.detector or options.landmarker
        rectangles = options.rectangles or (None if looked_for else found.rectangles)
        landmarks = options.landmarks or (None if options.detector or options.landmarker else found.landmarks)
        if rectangles:
            framing = self._tried(rectangles, partial(from_rectangles, source=frames, part=part, smooth=options.smooth))
            return framing and self._framed("rectangles", rectangles, framing)
        if landmarks:
            inside = landmarks if options.landmarks else found.root
            work = partial(from_landmarks, source=frames, part=part, inside=inside, smooth=options.smooth)
            framing = self._tried(landmarks, work)
            return framing and self._framed("landmarks", landmarks, framing)
        if options.detector and options.landmarker:
            self._facts.append(("landmarks", f"to be found by {options.detector.name} and {options.landmarker.name}"))
            self._problems += model_problems(detector=options.detector, landmarker=options.landmarker)
        elif options.detector or options.landmarker:
            self._problems.append("--detector and --landmarker go together: one finds the face, the other its points")
        else:
            self._problems.append(
                f"{found.root.name} has neither rectangles nor landmarks: give --rectangles or --landmarks, "
                "or --detector and --landmarker to find them"
            )
        return None

    def _framed(self, label: str, path: Path, framing: Framing) -> Framing:
        self._fact(label, path, framing.found)
        self._derived += framing.derived
        self._warnings += framing.warnings
        return framing

    def _network(self) -> ModelSource | None:
        path = self._options.checkpoint or self._found.network
        if path is not None and path.is_dir():
            path = self._tried(path, chosen_checkpoint)
            return None if path is None else self._model(path, "network")
        if path is None:
            self._problems.append(f"{self._found.root.name} has no network: name an .onnx or .pth file with --checkpoint")
            return None
        return self._model(path, "network")

    def _encoder(self, network: ModelSource | None) -> ModelSource | None:
        """The avatar's own encoder, None for the shared one. The demo's encoder is for the demo's networks only."""
        shared = self._options.models_root / AUDIO_ENCODER_NAME
        usable = shared.is_file() and (_is_demos(network) or not _is_demos(self._shared(shared)))
        path = self._options.audio_encoder or self._found.audio_encoder
        nearby = path is not None and not self._options.audio_encoder and not path.is_relative_to(self._found.root)
        if path is not None and not (usable and nearby) and not (shared.is_file() and _same_file(path, shared)):
            return self._model(path, "audio_encoder", sink=self._warnings if nearby else self._problems)
        if usable or path is not None:
            self._facts.append(("audio encoder", f"the shared one, {shared}"))
        elif shared.is_file():
            self._warnings.append(
                f"{shared} is the demo's audio encoder, and the mouth will move wrongly with it: give the one that the network "
                "was trained with, --audio-encoder"
            )
        else:
            self._warnings.append(
                f"there is no audio encoder: sound can be served when there is a {shared}; or give --audio-encoder"
            )
        return None

    def _shared(self, path: Path) -> ModelSource | None:
        try:
            return open_model(path, "audio_encoder")
        except AvatarError as error:
            self._warnings += [f"the shared audio encoder cannot be used: {problem}" for problem in error.problems]
            return None

    def _model(self, path: Path, kind: Kind, *, sink: list[str] | None = None) -> ModelSource | None:
        """Inspects a network. Its faults go to `sink`, by default the problems."""
        try:
            model = open_model(path, kind)
        except AvatarError as error:
            (self._problems if sink is None else sink).extend(error.problems)
            return None
        batch = (
            "checkpoint" if model.is_checkpoint else "ONNX, any batch" if model.batch is None else f"ONNX, batch {model.batch}"
        )
        self._fact(kind.replace("_", " "), path, batch)
        return model

    def _features(self, frame_count: int, part: range) -> NDArray[np.float32] | None:
        """Those of the part. The avatar can do without them: a file that cannot be used is left out."""
        path = self._found.features
        if path is None:
            return None
        if not self._options.features:
            self._found.unused.append(f"{self._found.shown(path)}: --no-features")
            return None
        try:
            features = open_features(path)
        except FileProblem as problem:
            self._left_out = [f"{told}: it is left out; sound needs no stored features" for told in problem.of(path.name)]
            self._warnings += self._left_out
            return None
        self._fact("features", path, f"{len(features)} rows")
        if abs(len(features) - frame_count) <= MISSING_ROWS:
            taken = features[part.start : part.stop]
            return taken if len(taken) else None
        if abs(len(features) - len(part)) <= MISSING_ROWS:
            return features
        self._warnings.append(
            f"{path.name} has {len(features)} rows for {frame_count} frames: it belongs to another sound and is left out"
        )
        return None

    def _actions(
        self, frames: FrameSource, framing: Framing | None, network: ModelSource, encoder: ModelSource | None
    ) -> Iterator[str]:
        if framing is None:
            yield "find the landmarks in every frame"
        for model in (network, encoder):
            if model and model.is_checkpoint:
                yield f"convert {model.path.name} to ONNX"
            elif model and model.batch is not None:
                yield f"make {model.path.name} take any batch, if it can"
        how = "byte for byte" if isinstance(frames, PictureFolder) else "as JPEG of quality 95"
        options = self._options
        if options.reference_frame is not None:
            yield f"show the network the crop of frame {options.reference_frame} as reference for every frame"
        if options.idle:
            yield f"keep to frames {options.idle.first} to {options.idle.last} while nobody speaks"
        if options.idle_mouth is IdleMouth.STORED:
            yield "show the pictures as they are while nobody speaks"
        place = options.models_root / options.avatar_id
        if options.keep_video:
            yield f"keep {frames.name}, from which its {frames.count} frames are read when they are served, in {place}"
        else:
            yield f"write {frames.count} frames, {how}, to {place}"

    def _fact(self, label: str, path: Path, what: str) -> None:
        self._facts.append((label, f"{self._found.shown(path)}: {what}"))

    def _tried(self, path: Path, work: Callable[[Path], T]) -> T | None:
        """The result of `work` for the path; None, with its problems noted, when it fails."""
        try:
            return work(path)
        except FileProblem as problem:
            self._problems += problem.of(self._found.shown(path))
            return None


def _is_demos(model: ModelSource | None) -> bool:
    return model is not None and model.producer == DEMO_PRODUCER


def _size(frames: FrameSource) -> str:
    return f"{frames.width}x{frames.height}"


def _same_file(path: Path, other: Path) -> bool:
    return path.is_file() and filecmp.cmp(path, other, shallow=False)
