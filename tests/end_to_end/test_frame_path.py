"""Frames that the two services make against the plain reference of the whole way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from avatar_kit.avatar import Avatar, load_avatar
from shared_proto import compositing_pb2 as pb

from . import reference
from .conftest import CALL_S, SAMPLES_A_FRAME, Duo

FRAMES = 9
SMALL_INDICES = [0, 1, 2, 3, 4, 3, 2, 1, 0]


def ask(duo: Duo, **fields: Any) -> pb.CompositeBatchResponse:
    reply: pb.CompositeBatchResponse = duo.pictures.InferBatchComposite(pb.CompositeBatchRequest(**fields), timeout=CALL_S)
    return reply


def raw_pictures(duo: Duo, **fields: Any) -> np.ndarray:
    reply = ask(duo, output_format=pb.FORMAT_RAW_BGR, **fields)
    return np.stack([np.frombuffer(frame, np.uint8).reshape(reply.height, reply.width, 3) for frame in reply.composited_frames])


def windows(count: int) -> np.ndarray:
    return np.random.default_rng(8).uniform(0, 5, (count, 8192)).astype("<f4")


@pytest.mark.parametrize("avatar_id", ["small", "direct", "masked", "fixed", "static", "wide"])
@pytest.mark.parametrize("quality", [0, 31, 100])
def test_from_features_every_byte_is_the_reference_s(duo: Duo, models_root, avatar_id: str, quality: int) -> None:
    avatar, heard = load_avatar(models_root / avatar_id), windows(FRAMES)
    reply = ask(duo, model_id=avatar_id, audio_features=heard.tobytes(), batch_size=FRAMES, jpeg_quality=quality)
    assert list(reply.frame_indices) == SMALL_INDICES
    mouths = reference.mouths(avatar, SMALL_INDICES, heard)
    for index, mouth, jpeg in zip(SMALL_INDICES, mouths, reply.composited_frames, strict=True):
        interval = reference.restart_interval_of(jpeg)
        assert (interval == 0) == (avatar_id == "wide")
        whole = reference.encoded(reference.pasted(avatar, index, mouth), quality=quality or 75, restart_interval=interval)
        assert jpeg == whole


def test_from_sound_the_small_avatar(duo: Duo, models_root, speech: np.ndarray) -> None:
    """librosa's spectrum and ours differ by some 1e-6, which may lift single values over a step of 1/255 in the truncation."""
    avatar = load_avatar(models_root / "small")
    sound = speech[: (FRAMES + 3) * SAMPLES_A_FRAME]
    made = raw_pictures(duo, model_id="small", raw_audio=sound.tobytes(), batch_size=FRAMES)
    mouths = reference.mouths(avatar, SMALL_INDICES, reference.frame_windows(avatar, sound, FRAMES))
    wanted = np.stack([reference.pasted(avatar, *each) for each in zip(SMALL_INDICES, mouths, strict=True)])
    off = np.abs(made.astype(int) - wanted)
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-4


@pytest.mark.parametrize("avatar_id", ["small", "feather", "direct", "wide"])
def test_a_jpeg_is_the_raw_picture_encoded_whole(duo: Duo, speech: np.ndarray, avatar_id: str) -> None:
    fields = {"model_id": avatar_id, "raw_audio": speech[:9600].tobytes(), "batch_size": 5, "start_frame_idx": 2}
    jpegs = ask(duo, **fields).composited_frames
    for picture, jpeg in zip(raw_pictures(duo, **fields), jpegs, strict=True):
        interval = reference.restart_interval_of(jpeg)
        assert jpeg == reference.encoded(picture, quality=75, restart_interval=interval)
        plain = reference.encoded(picture, quality=75, restart_interval=0)
        np.testing.assert_array_equal(reference.decoded(jpeg), reference.decoded(plain))


def test_the_drawn_person(duo: Duo, demo: Avatar, speech: np.ndarray) -> None:
    """A network with convolutions, run by ONNX Runtime without any rewriting: floats differ in their last bits."""
    sound, frames, start = speech[:12_800], 6, 40
    fields = {"model_id": "demo", "raw_audio": sound.tobytes(), "batch_size": frames, "start_frame_idx": start}
    indices = range(start, start + frames)
    made = raw_pictures(duo, **fields)
    mouths = reference.mouths(demo, indices, reference.frame_windows(demo, sound, frames))
    wanted = np.stack([reference.pasted(demo, *each) for each in zip(indices, mouths, strict=True)])
    off = np.abs(made.astype(int) - wanted)
    assert off.max() <= 2  # one step of a truncated value, made larger by the bicubic resize
    assert (off > 0).mean() < 2e-3
    for picture, jpeg in zip(made, ask(duo, **fields).composited_frames, strict=True):
        interval = reference.restart_interval_of(jpeg)
        assert interval > 0
        assert jpeg == reference.encoded(picture, quality=75, restart_interval=interval)


def test_mouths_beside_pictures_that_a_caller_sent_have_no_fixed_reference(duo: Duo, models_root) -> None:
    """The small avatar has the same network and frames."""
    small, heard = load_avatar(models_root / "small"), windows(4)
    sent = np.stack([reference.picture_input(small, index) for index in (4, 0, 2, 1)])
    fields = {"audio_features": heard.tobytes(), "visual_frames": sent.tobytes(), "batch_size": 4}
    pictures = raw_pictures(duo, model_id="fixed", **fields)
    np.testing.assert_array_equal(pictures, raw_pictures(duo, model_id="small", **fields))


@pytest.mark.parametrize("avatar_id", ["calm", "calm-wide"])
def test_idle_frames_of_avatars_shown_as_stored_are_the_backgrounds_encoded_whole(duo: Duo, models_root, avatar_id: str) -> None:
    avatar = load_avatar(models_root / avatar_id)
    reply = ask(duo, model_id=avatar_id, idle=True, batch_size=FRAMES, jpeg_quality=60)
    assert list(reply.frame_indices) == ([0, 1, 2, 3, 2, 1, 2, 3, 2] if avatar.idle else SMALL_INDICES)
    for index, jpeg in zip(reply.frame_indices, reply.composited_frames, strict=True):
        interval = reference.restart_interval_of(jpeg)
        assert jpeg == reference.encoded(reference.read(avatar, index), quality=60, restart_interval=interval)


@pytest.mark.parametrize("avatar_id", ["small", "feather", "wide", "static"])
@pytest.mark.parametrize("fields", [{"jpeg_quality": 60}, {"output_format": pb.FORMAT_RAW_BGR}], ids=["jpeg", "raw"])
def test_idle_frames_of_avatars_at_rest_are_those_of_endless_silence(duo: Duo, avatar_id: str, fields: dict[str, Any]) -> None:
    silence = np.zeros(40 * SAMPLES_A_FRAME, "<f4").tobytes()
    for _ in range(2):  # made now, and kept
        reply = ask(duo, model_id=avatar_id, idle=True, batch_size=FRAMES, **fields)
        for position, frame in enumerate(reply.composited_frames):
            alone = {"batch_size": 1, "lead_in_frames": 15 + position, "start_frame_idx": position}
            heard = ask(duo, model_id=avatar_id, raw_audio=silence, **alone, **fields)
            assert list(heard.composited_frames) == [frame]


@pytest.mark.parametrize(
    ("asked", "quality"),
    [
        ({"quality_preset": pb.QUALITY_LOW}, 50),
        ({"quality_preset": pb.QUALITY_MEDIUM}, 75),
        ({"quality_preset": pb.QUALITY_HIGH}, 90),
        ({"jpeg_quality": 1}, 1),
        ({}, 75),
    ],
)
def test_qualities(duo: Duo, asked: dict, quality: int) -> None:
    fields = {"model_id": "small", "audio_features": windows(1).tobytes(), "batch_size": 1}
    [picture] = raw_pictures(duo, **fields)
    [jpeg] = ask(duo, **fields, **asked).composited_frames
    interval = reference.restart_interval_of(jpeg)
    assert jpeg == reference.encoded(picture, quality=quality, restart_interval=interval)
