"""Builds the demo avatar from the shipped clip, rectangles and networks."""

from __future__ import annotations

from pathlib import Path

import cv2

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AUDIO_ENCODER_NAME
from avatar_kit.geometry import Picture
from avatar_kit.rectangles import read_rects
from avatar_kit.timeline import IdleMouth, Loop
from avatar_kit.video.files import video_pictures
from avatar_kit.writer import AvatarWriter
from avatar_tools.importing.sources import in_order
from avatar_tools.progress import Progress, silent

WIDTH, HEIGHT, FRAME_COUNT = 1280, 720, 150  # of the clip
SPEECH_PATH = Path(__file__).with_name("speech") / "speech.wav"
CLIP_PATH = Path(__file__).with_name("clip.mp4")
RECTS_PATH = Path(__file__).with_name("crop_rects.json")
ENCODER_PATH = Path(__file__).with_name("audio_encoder.onnx")
NETWORK_PATH = Path(__file__).with_name("network.onnx")

_JPEG_QUALITY = 92


def build_demo(models_root: Path, avatar_id: str = "demo", *, replace: bool = False, progress: Progress = silent) -> Avatar:
    """Writes the avatar `models_root/avatar_id`, and `models_root/audio_encoder.onnx` when there is none.

    Frames are the same bytes every time on the same machine. Raises AvatarExists when the id is taken and `replace` is False, and
    InvalidAvatarId.
    """
    writer = AvatarWriter(
        models_root,
        avatar_id,
        width=WIDTH,
        height=HEIGHT,
        loop=Loop.FORWARD,
        idle_mouth=IdleMouth.STORED,  # she is drawn with her mouth shut
        replace=replace,
    )
    with writer:
        progress("frames", 0, FRAME_COUNT)
        rects = read_rects(RECTS_PATH, frame_count=FRAME_COUNT)
        for index, jpeg in enumerate(in_order(_jpeg, video_pictures(CLIP_PATH))):
            writer.add_frame(jpeg, rects[index])
            progress("frames", index + 1, FRAME_COUNT)
        writer.set_network(NETWORK_PATH)
        writer.set_audio_encoder(ENCODER_PATH)
        avatar = writer.finish()
    shared = models_root / AUDIO_ENCODER_NAME
    if not shared.exists():
        shared.write_bytes(ENCODER_PATH.read_bytes())
    return avatar


def _jpeg(picture: Picture) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
