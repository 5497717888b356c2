"""Avatars at rest, shown by both services: the mouth of a person who talks in her clip is shut, in sessions too."""

from __future__ import annotations

from pathlib import Path

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

from .avatars import write_avatar
from .conftest import CALL_S, SAMPLES_A_FRAME, Duo
from .talking import Talk

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


@pytest.mark.parametrize("output", [{"jpeg_quality": 60}, {"output_format": pb.FORMAT_RAW_BGR}], ids=["jpeg", "raw"])
def test_idle_frames_of_sessions_are_those_of_a_request(duo: Duo, output: dict[str, int]) -> None:
    """The avatar says which; the mouths of silence are there before long, and stay."""
    for avatar_id in ("feather", "calm"):
        talk = Talk(duo.pictures, pb.SessionConfig(model_id=avatar_id, **output))
        with talk:
            talk.wait(lambda talk=talk: len(talk.frames) >= 60)  # type: ignore[misc]
        asked = pb.CompositeBatchRequest(model_id=avatar_id, idle=True, batch_size=10, **output)
        reply = duo.pictures.InferBatchComposite(asked, timeout=CALL_S)
        at_rest = dict(zip(reply.frame_indices, reply.composited_frames, strict=True))
        latest = list(talk.frames)[-20:]
        assert {frame.frame_index for frame in latest} == ({1, 2, 3} if avatar_id == "calm" else set(at_rest))
        assert all(frame.picture == at_rest[frame.frame_index] for frame in latest)


def test_a_session_begins_at_rest_with_an_avatar_that_nobody_has_shown_before(duo: Duo, models_root: Path) -> None:
    write_avatar(models_root, "newcomer")
    with Talk(duo.pictures, pb.SessionConfig(model_id="newcomer", start_frame_idx=2)) as talk:
        talk.wait(lambda: len(talk.frames) >= 4)
    asked = pb.CompositeBatchRequest(model_id="newcomer", idle=True, batch_size=4, start_frame_idx=2)
    at_rest = duo.pictures.InferBatchComposite(asked, timeout=CALL_S).composited_frames
    assert [frame.picture for frame in talk.frames[:4]] == list(at_rest)


def test_silent_frames_of_a_segment_are_shown_as_the_idle_policy_says(duo: Duo) -> None:
    silence = np.zeros(40 * SAMPLES_A_FRAME, "<f4").tobytes()
    asked = pb.CompositeBatchRequest(model_id="direct", raw_audio=silence, batch_size=30)
    rested = list(duo.pictures.InferBatchComposite(asked, timeout=CALL_S).composited_frames)
    for idle in (pb.IDLE_REST, pb.IDLE_NONE, pb.IDLE_AVATAR, pb.IDLE_STORED):
        with Talk(duo.pictures, pb.SessionConfig(model_id="direct", idle=idle, pacing=pb.AS_FAST_AS_POSSIBLE)) as talk:
            talk.say(silence)
            talk.end()
        shown = [frame.picture for frame in talk.frames[:30]]
        assert (shown == rested) == (idle != pb.IDLE_STORED)
        assert not any(frame.speech for frame in talk.frames)
