"""Shows the pictures of an avatar's clip: whole, or the parts that its network sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import Mask, Picture, crop_328, inner
from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.outputs import JpegOutput
from compositing_service.picture.jpeg.encoder import encode

FULL_BODY = "full_body"


def _seen(crop: Picture, _: Mask) -> Picture:
    return inner(crop)


def _masked(crop: Picture, mask: Mask) -> Picture:
    seen = inner(crop)
    return np.where(mask.kept()[..., None] > 0, seen, np.uint8(0))


# The earlier server's names: videos of a package, and parts of a picture.
_PARTS: Mapping[str, Callable[[Picture, Mask], Picture]] = MappingProxyType(
    {
        "crops_328": lambda crop, _: crop,
        "model_inputs": _masked,
        "rois_320": _seen,
        "face_regions": _seen,
        "masked_regions": _masked,
    }
)
VIDEO_TYPES = (FULL_BODY, *_PARTS)


def video_frame(composer: AvatarComposer, index: int, video_type: str, *, quality: int) -> bytes:
    """Returns a picture of the clip as a JPEG file: `video_type` is one of `VIDEO_TYPES`. Blocks. Raises AvatarError."""
    if video_type == FULL_BODY:
        return composer.stored(index, JpegOutput(quality))
    avatar = composer.avatar
    part = _PARTS[video_type](_crop(avatar, index), avatar.mask)
    return encode(np.ascontiguousarray(part), quality=quality, restart_interval=0).tobytes()


def _crop(avatar: Avatar, index: int) -> Picture:
    return crop_328(avatar.read_frame(index), avatar.rects[index])
