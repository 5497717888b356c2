"""A clip of a person who talks, shown at rest by both services: her mouth is shut."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.geometry import Picture, Rect
from avatar_kit.timeline import IdleMouth, Loop
from avatar_kit.writer import AvatarWriter
from avatar_tools.demo import SPEECH_PATH
from lipsync_cli.recording import read_recording
from monolithic_service.speaker import Speaker
from shared_proto import compositing_pb2 as pb

from .conftest import CALL_S, SAMPLES_A_FRAME, Duo

FRAMES = 4


@pytest.fixture(scope="module")
def talker(demo: Avatar) -> Avatar:
    """The demo person with the network's loudest mouths drawn into her pictures."""
    speech = read_recording(SPEECH_PATH).speech()
    loudness = np.square(speech[: speech.size // SAMPLES_A_FRAME * SAMPLES_A_FRAME].reshape(-1, SAMPLES_A_FRAME)).mean(axis=1)
    loud = np.argsort(loudness)[::-1]
    speaker, root = Speaker(demo, AvatarCatalog(demo.root.parent)), demo.root.parent
    with AvatarWriter(root, "talker", width=demo.width, height=demo.height, loop=Loop.FORWARD) as writer:
        for index in range(FRAMES):
            picture = speaker.moment(speech, index, heard=int(loud[index]))
            writer.add_frame(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes(), demo.rects[index])
        writer.set_network(demo.network_path)
        assert demo.audio_encoder_path
        writer.set_audio_encoder(demo.audio_encoder_path)
        return writer.finish()


def pictures(duo: Duo, avatar_id: str) -> list[Picture]:
    request = pb.CompositeBatchRequest(model_id=avatar_id, idle=True, batch_size=FRAMES, jpeg_quality=95)
    reply = duo.pictures.InferBatchComposite(request, timeout=CALL_S)
    return [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in reply.composited_frames]  # type: ignore[misc]


def lips(picture: Picture, rect: Rect) -> np.ndarray:
    """The middle of the rectangle, where the lips are."""
    rows = slice(rect.y1 + rect.height // 5, rect.y1 + rect.height * 3 // 5)
    columns = slice(rect.x1 + rect.width // 4, rect.x2 - rect.width // 4)
    return picture[rows, columns].astype(int)


def opening(lips: np.ndarray) -> float:
    """The share of it that is as dark as the inside of an open mouth."""
    return float((lips.max(axis=2) < 90).mean())


def test_a_person_who_talks_in_her_pictures_has_her_mouth_shut_at_rest(duo: Duo, demo: Avatar, talker: Avatar) -> None:
    assert (demo.idle_mouth, talker.idle_mouth) == (IdleMouth.STORED, IdleMouth.REST)
    for index, (rest, silent) in enumerate(zip(pictures(duo, "talker"), pictures(duo, "demo"), strict=True)):
        rect = demo.rects[index]
        shown, shut, open_ = (lips(picture, rect) for picture in (rest, silent, talker.read_frame(index)))
        assert opening(open_) > 0.015, "the mouth of the stored picture is open"
        assert opening(shown) == opening(shut) == 0
        assert np.abs(shown - shut).mean() * 2.5 < np.abs(shown - open_).mean()
