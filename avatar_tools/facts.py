"""Facts about an avatar and its needs, in words and figures for people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import MOUTH_SIZE
from avatar_kit.onnx_io import network_io
from avatar_kit.reference_frame import Reference
from avatar_kit.timeline import IdleMouth, Loop
from avatar_tools.rect_motion import largest_step

# The compositing service keeps JPEG files of this quality, the default, and around each rectangle the pixels up to the next
# markers. These stand at the ends of rows of blocks, and in them where that spares pixels: mostly five blocks apart or more.
_QUALITY, _BLOCK, _LEAST_STRETCH = 75, 16, 5
_OBJECT_BYTES = 1200  # Python's, of a frame
_JPEG_BYTES_A_PIXEL = 0.08  # of a person before a plain background
_CHANNELS = 3
_MOUTHS = {IdleMouth.REST: "with the network's mouth for silence", IdleMouth.STORED: "as stored"}
_THEN = {Loop.BOUNCE: "then back again", Loop.FORWARD: "then from the start"}


def avatar_facts(avatar: Avatar) -> dict[str, str]:
    """Label and value of each fact, in the order to be shown. Reads one picture."""
    seconds = avatar.frame_count / avatar.fps
    mask = avatar.mask
    disk = _bytes_on_disk([*avatar.frames.files, avatar.network_path, *_present(avatar.audio_encoder_path, avatar.features_path)])
    return {
        "picture": f"{avatar.width}x{avatar.height}, {avatar.fps:g} frames a second",
        "clip": f"{avatar.frame_count} frames, {seconds:.1f} s, {_THEN[avatar.loop]}",
        "rectangles": _rectangles(avatar),
        "paste": avatar.paste.value,
        "reference": _reference(avatar),
        "idle": _idle(avatar),
        "mask": f"{mask.width}x{mask.height} at {mask.x},{mask.y} of {MOUTH_SIZE}x{MOUTH_SIZE}",
        "network": _network(avatar),
        "audio encoder": avatar.audio_encoder_path.name if avatar.audio_encoder_path else "the shared one",
        "disk": _size(disk),
        "memory to composite": f"about {_size(compositing_bytes(avatar))}",
        "memory to infer": f"{_size(crop_bytes(avatar))} of crops, and what the network takes to run",
    }


def compositing_bytes(avatar: Avatar) -> int:
    """Estimates the compositing service's memory without mouths at rest: each frame's JPEG, and pixels around the mouth."""
    row = -(-avatar.width // _BLOCK)
    stretches = [blocks * _BLOCK for blocks in range(_LEAST_STRETCH, row) if row % blocks == 0]
    around = min(_bytes_around(avatar, stretch) for stretch in (*stretches, avatar.width))
    return avatar.frame_count * (_jpeg_bytes(avatar) + _OBJECT_BYTES) + around


def _bytes_around(avatar: Avatar, stretch: int) -> int:
    """Counts the pixels around all rectangles that are kept with markers so far apart; the mouth covers those in them."""
    kept = 0
    for rect in avatar.rects:
        width = min(-(-rect.x2 // stretch) * stretch, avatar.width) - rect.x1 // stretch * stretch
        height = min(-(-rect.y2 // _BLOCK) * _BLOCK, avatar.height) - rect.y1 // _BLOCK * _BLOCK
        kept += width * height - rect.width * rect.height
    return kept * _CHANNELS


def _jpeg_bytes(avatar: Avatar) -> int:
    """Encodes a picture of the middle."""
    try:
        picture = avatar.read_frame(avatar.frame_count // 2)
    except BrokenAvatar:
        return round(avatar.width * avatar.height * _JPEG_BYTES_A_PIXEL)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].nbytes


def crop_bytes(avatar: Avatar) -> int:
    """The bytes of an avatar's pictures in the inference service: each frame's mouth region as uint8."""
    return avatar.frame_count * MOUTH_SIZE * MOUTH_SIZE * _CHANNELS


def memory_bytes(avatar: Avatar) -> dict[str, int]:
    """Estimates each service's memory for a loaded avatar's pictures, for programs."""
    return {"compositing": compositing_bytes(avatar), "inference_crops": crop_bytes(avatar)}


def _rectangles(avatar: Avatar) -> str:
    widths = [rect.width for rect in avatar.rects]
    heights = [rect.height for rect in avatar.rects]
    step = largest_step(avatar.rects)
    return f"{_span(widths)} wide, {_span(heights)} high, moving at most {step:.1f} pixels a frame"


def _reference(avatar: Avatar) -> str:
    frame = avatar.reference_frame
    return "current, each frame's own crop" if frame is None else f"{Reference(frame)}, the crop of frame {frame} for every frame"


def _idle(avatar: Avatar) -> str:
    mouth = _MOUTHS[avatar.idle_mouth]
    if (idle := avatar.idle) is None:
        return f"the whole clip, {mouth}"
    count = idle.last - idle.first + 1
    return f"frames {idle.first} to {idle.last}, {count / avatar.fps:.1f} s, {mouth}"


def _network(avatar: Avatar) -> str:
    size = _size(_bytes_on_disk([avatar.network_path]))
    try:
        batch = network_io(avatar.network_path).batch
    except BrokenAvatar:
        return f"{avatar.network_path.name}, {size}, unusable"
    return f"{avatar.network_path.name}, {size}, {'any batch size' if batch is None else f'batch size {batch} only'}"


def _present(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path is not None]


def _bytes_on_disk(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _size(count: int) -> str:
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    if count < 100e6:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
