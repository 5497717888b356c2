"""Builds the demo avatar: frames, rectangles and networks, the same bytes every time on the same machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AUDIO_ENCODER_NAME
from avatar_kit.geometry import CROP_SIZE, MARGIN, Picture, Rect, crop_328, inner
from avatar_kit.timeline import Loop
from avatar_kit.writer import AvatarWriter
from avatar_tools.demo.motion import FPS, FRAME_COUNT, STILL, posture
from avatar_tools.demo.network import MOUTH_CENTRE, SKIN_BOX, TRACKED_BOX, TRACKED_POOL, Face, build_network
from avatar_tools.demo.scene import HEIGHT, WIDTH, Place, Scene, mouth_place
from avatar_tools.progress import Progress, silent

SPEECH_PATH = Path(__file__).with_name("speech") / "speech.wav"
ENCODER_PATH = Path(__file__).with_name("audio_encoder.onnx")

_JPEG_QUALITY = 92
_RIDGE = 0.05  # keeps the tracker from reading the noise of single pixels


class _Frame(NamedTuple):
    jpeg: bytes
    rect: Rect
    tracked: NDArray[np.float32]
    """The tracker's pixels, one row."""
    offset: NDArray[np.float64]
    """[3]: the mouth's x, y and tilt, which it must find in them."""


def build_demo(models_root: Path, avatar_id: str = "demo", *, replace: bool = False, progress: Progress = silent) -> Avatar:
    """Draws the person and writes the avatar `models_root/avatar_id`, and `models_root/audio_encoder.onnx` when there is none.

    Raises AvatarExists when the id is taken and `replace` is False, and InvalidAvatarId.
    """
    encoder = ENCODER_PATH.read_bytes()
    with AvatarWriter(models_root, avatar_id, fps=FPS, width=WIDTH, height=HEIGHT, loop=Loop.FORWARD, replace=replace) as writer:
        progress("drawing", 0, FRAME_COUNT)
        scene = Scene()
        frames = []
        for frame in _frames(scene):
            writer.add_frame(frame.jpeg, frame.rect)
            frames.append(frame)
            progress("drawing", len(frames), FRAME_COUNT)
        face = Face(_bare_skin(scene), *_fit_tracker(frames))
        writer.set_network(build_network(face).SerializeToString(deterministic=True))
        writer.set_audio_encoder(encoder)
        avatar = writer.finish()
    shared = models_root / AUDIO_ENCODER_NAME
    if not shared.exists():
        shared.write_bytes(encoder)
    return avatar


def _frames(scene: Scene) -> Iterator[_Frame]:
    def draw(index: int) -> _Frame:
        stance = posture(index)
        picture = scene.frame(stance)
        place = mouth_place(stance)
        rect = place.rect()
        crop = inner(crop_328(picture, rect))
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        return _Frame(encoded.tobytes(), rect, _tracked(crop), _offset(place, rect))

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(draw, range(FRAME_COUNT))


def _offset(place: Place, rect: Rect) -> NDArray[np.float64]:
    scale = CROP_SIZE / rect.width
    x = (place.x - rect.x1) * scale - 0.5 - MARGIN - MOUTH_CENTRE[0]
    y = (place.y - rect.y1) * scale - 0.5 - MARGIN - MOUTH_CENTRE[1]
    return np.array([x, y, place.roll])


def _tracked(crop: Picture) -> NDArray[np.float32]:
    rows, columns = TRACKED_BOX
    green = crop[rows, columns, 1].astype(np.float32) / 255
    height, width = green.shape
    blocks = green.reshape(height // TRACKED_POOL, TRACKED_POOL, width // TRACKED_POOL, TRACKED_POOL)
    return np.asarray(blocks.mean((1, 3)), np.float32).ravel()


def _fit_tracker(frames: list[_Frame]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Ridge regression from pixels to offsets over the loop itself."""
    seen = np.stack([frame.tracked for frame in frames]).astype(np.float64)
    wanted = np.stack([frame.offset for frame in frames])
    mean_seen, mean_wanted = seen.mean(0), wanted.mean(0)
    seen, wanted = seen - mean_seen, wanted - mean_wanted
    tracker = seen.T @ np.linalg.solve(seen @ seen.T + _RIDGE * np.eye(len(seen)), wanted)
    return tracker.astype(np.float32), (mean_wanted - mean_seen @ tracker).astype(np.float32)


def _bare_skin(scene: Scene) -> NDArray[np.uint8]:
    crop = inner(crop_328(scene.frame(STILL, bare=True), mouth_place(STILL).rect()))
    return np.ascontiguousarray(crop[SKIN_BOX])
