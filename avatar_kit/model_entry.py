"""One entry of the settings' `models:`, with the keys of the earlier servers' YAML files. Both services read the same entries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from avatar_kit.geometry import Mask, Paste
from avatar_kit.manifest import mask_from_list
from avatar_kit.numbering import MAX_FRAMES
from avatar_kit.reference_frame import Reference
from avatar_kit.timeline import FrameRange, Loop


class ModelEntry(BaseModel):
    """What an operator says of one avatar. Every key may be left out.

    Relative paths begin at models_root; absolute ones may lead anywhere. The keys that name files are for avatars in the earlier
    servers' layout; for an avatar with an `avatar.yaml` they must name the files that it names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    model_path: Path | None = None
    """The lip-sync network, ONNX. Default: ID/checkpoint/model_best.onnx."""

    background_dir: Path | None = None
    """Folder of the frames: frame_000000.jpg, frame_0000.png or 0.jpg, numbered from 0 or 1 without gaps. Default: ID/frames."""

    crop_rects_path: Path | None = None
    """JSON file with one [x1, y1, x2, y2] a frame: an array, or an object keyed by frame number. Default: ID/crop_rects.json."""

    features_path: Path | None = None
    """The features of the clip's own sound, for frames without sound. Default: ID/aud_ave.npy or ID/aud_ave.bin, if there."""

    num_frames: StrictInt | None = Field(default=None, ge=1, le=MAX_FRAMES)
    """Serve only the first so many frames; it is an error if there are fewer. Default: all."""

    source_video: Path | None = None
    """Video that the frames are read out of when background_dir is empty or missing, at 25 a second. Nothing is written."""

    crops_video_path: Path | None = None
    """Video of the 328 x 328 crops. Not needed to serve, crops are computed: `lipsync avatar verify` compares the two."""

    rois_video_path: Path | None = None
    """Video of the 320 x 320 mouth regions. Not needed to serve: `lipsync avatar verify` compares it with the computed ones."""

    preload: StrictBool = False
    """Inference service: load the network at start instead of at the first request."""

    preload_model: StrictBool = False
    """The same as preload, under the name that the earlier monolithic server gave it; either one is enough."""

    preload_backgrounds: StrictBool = False
    """Compositing service: load all frames at start instead of at the first request."""

    preferred_gpu: StrictInt = Field(default=-1, ge=-1, le=1023)
    """Inference service: number of the GPU that the network should run on; -1 leaves it to gpus.assignment_strategy."""

    loop: Loop | None = None
    """bounce: after the last frame the way back; forward: the first frame again. Default: as avatar.yaml says, else bounce."""

    paste: Paste | None = None
    """How the mouth is pasted: reference, feather or direct. Default: as avatar.yaml says, else reference."""

    mask: Annotated[Mask, BeforeValidator(mask_from_list)] | None = None
    """x, y, width, height of what was blackened of the 320 x 320 picture. Default: as avatar.yaml says, else 5, 5, 310, 305."""

    reference: Annotated[Reference, BeforeValidator(Reference.parse)] | None = None
    """current: the network is shown each frame's own crop. fixed:INDEX: for every frame that one's, where the mouth is closed.
    Default: as avatar.yaml says, else current."""

    idle: Annotated[FrameRange, BeforeValidator(FrameRange.parse)] | None = None
    """First and last frame of the part of the clip that is shown while nobody speaks. Default: as avatar.yaml says, else all."""

    @property
    def wants_model_preloaded(self) -> bool:
        """Either name of the key."""
        return self.preload or self.preload_model
