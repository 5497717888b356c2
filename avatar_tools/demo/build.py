"""Builds the demo avatar: frames from layers, and the shipped networks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AUDIO_ENCODER_NAME
from avatar_kit.timeline import Loop
from avatar_kit.writer import AvatarWriter
from avatar_tools.demo.motion import FPS, FRAME_COUNT, posture
from avatar_tools.demo.scene import HEIGHT, WIDTH, Scene, mouth_place
from avatar_tools.progress import Progress, silent

SPEECH_PATH = Path(__file__).with_name("speech") / "speech.wav"
ENCODER_PATH = Path(__file__).with_name("audio_encoder.onnx")
NETWORK_PATH = Path(__file__).with_name("network.onnx")

_JPEG_QUALITY = 92


def build_demo(models_root: Path, avatar_id: str = "demo", *, replace: bool = False, progress: Progress = silent) -> Avatar:
    """Writes the avatar `models_root/avatar_id`, and `models_root/audio_encoder.onnx` when there is none.

    Frames are the same bytes every time on the same machine. Raises AvatarExists when the id is taken and `replace` is False, and
    InvalidAvatarId.
    """
    with AvatarWriter(models_root, avatar_id, fps=FPS, width=WIDTH, height=HEIGHT, loop=Loop.FORWARD, replace=replace) as writer:
        progress("drawing", 0, FRAME_COUNT)
        scene = Scene()
        with ThreadPoolExecutor(2) as pool:
            for index, jpeg in enumerate(pool.map(lambda index: _jpeg(scene, index), range(FRAME_COUNT))):
                writer.add_frame(jpeg, mouth_place(posture(index)).rect())
                progress("drawing", index + 1, FRAME_COUNT)
        writer.set_network(NETWORK_PATH)
        writer.set_audio_encoder(ENCODER_PATH)
        avatar = writer.finish()
    shared = models_root / AUDIO_ENCODER_NAME
    if not shared.exists():
        shared.write_bytes(ENCODER_PATH.read_bytes())
    return avatar


def _jpeg(scene: Scene, index: int) -> bytes:
    return cv2.imencode(".jpg", scene.frame(posture(index)), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
