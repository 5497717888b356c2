"""Defines an entry of the settings' `models:`, with the keys of the earlier servers. Both services read the same entries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from avatar_kit.geometry import Mask, Paste
from avatar_kit.manifest import mask_from_list
from avatar_kit.numbering import MAX_FRAMES
from avatar_kit.reference_frame import Reference
from avatar_kit.timeline import FrameRange, IdleMouth, Loop


class ModelEntry(BaseModel):
    """An operator's settings for one avatar. Every key may be left out.

    Relative paths begin at models_root; absolute ones may lead anywhere. The keys that name files are for avatars in the earlier
    servers' layout; for an avatar with an `avatar.yaml` they must name the same files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, protected_namespaces=())

    model_path: Path | None = None
    """The lip-sync network, ONNX. Default: ID/checkpoint/model_best.onnx."""

    background_dir: Path | None = None
    """Folder of the frames: frame_000000.jpg, frame_0000.png or 0.jpg, numbered from 0 or 1 without gaps. Default: ID/frames."""

    crop_rects_path: Path | None = None
    """JSON file with one [x1, y1, x2, y2] a frame: an array, or an object keyed by frame number. Default: ID/crop_rects.json."""

    features_path: Path | None = None
    """The features of the clip's own sound, for frames without sound. Default: ID/aud_ave.npy or ID/aud_ave.bin, if there."""

    num_frames: StrictInt | None = Field(default=None, ge=1, le=MAX_FRAMES)
    """Serve only this many frames, from the first; fewer in the clip are an error. Default: all."""

    source_video: Path | None = None
    """Video to read the frames from, at 25 a second, when background_dir is empty or missing. Nothing is written."""

    crops_video_path: Path | None = None
    """Video of the 328 x 328 crops. Serving computes crops and does not read it; `lipsync avatar verify` compares the two."""

    rois_video_path: Path | None = None
    """Video of the 320 x 320 mouth regions. Serving does not read it; `lipsync avatar verify` compares it with computed ones."""

    preload: StrictBool = False
    """Inference service: load the network at start instead of at the first request."""

    preload_model: StrictBool = False
    """The same as preload, by its name in the earlier monolithic server; either is enough."""

    preload_backgrounds: StrictBool = False
    """Compositing service: load all frames at start instead of at the first request."""

    preferred_gpu: StrictInt = Field(default=-1, ge=-1, le=1023)
    """Inference service: number of the GPU to run the network on; -1 leaves it to gpus.assignment_strategy."""

    loop: Loop | None = None
    """bounce: after the last frame the clip runs backwards; forward: it starts again. Default: from avatar.yaml, else bounce."""

    paste: Paste | None = None
    """Way to paste the mouth: reference, feather or direct. Default: from avatar.yaml, else reference."""

    mask: Annotated[Mask, BeforeValidator(mask_from_list)] | None = None
    """x, y, width, height of the blackened part of the 320 x 320 picture. Default: from avatar.yaml, else 5, 5, 310, 305."""

    reference: Annotated[Reference, BeforeValidator(Reference.parse)] | None = None
    """current: the network sees each frame's own crop. fixed:INDEX: it always sees that one's, with the mouth closed.
    Default: from avatar.yaml, else current."""

    idle: Annotated[FrameRange, BeforeValidator(FrameRange.parse)] | None = None
    """First and last frame of the part of the clip shown without speech. Default: from avatar.yaml, else all."""

    idle_mouth: IdleMouth | None = None
    """rest: without speech, the network's mouth for silence; stored: the pictures as they are, in which the mouth is shut.
    Default: from avatar.yaml, else rest."""

    @property
    def wants_model_preloaded(self) -> bool:
        """True if either name of the key is set."""
        return self.preload or self.preload_model
