"""`lipsync avatar inspect` shows the frames that the two services send for the same sound and settings, byte for byte."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avatar_kit.catalog import AvatarCatalog
from avatar_tools.inspect import Composite
from lipsync_cli.loud_moment import loud_moment
from monolithic_service.speaker import Speaker
from shared_proto import compositing_pb2 as pb

from . import reference
from .avatars import write_avatar
from .conftest import CALL_S, SAMPLES_A_FRAME, Duo

FRAMES = 19  # more than one batch


@pytest.mark.parametrize("avatar_id", ["small", "feather", "direct", "masked", "static", "forward", "wide"])
def test_the_pictures_are_the_services(duo: Duo, models_root, speech: np.ndarray, avatar_id: str) -> None:
    sound = speech[: (FRAMES + 3) * SAMPLES_A_FRAME]
    request = pb.CompositeBatchRequest(
        model_id=avatar_id, raw_audio=sound.tobytes(), batch_size=FRAMES, start_frame_idx=2, output_format=pb.FORMAT_RAW_BGR
    )
    sent = duo.pictures.InferBatchComposite(request, timeout=CALL_S)
    catalog = AvatarCatalog(models_root)
    speaker = Speaker(catalog.get(avatar_id), catalog)
    shown = list(speaker.pictures(sound, range(2, 2 + FRAMES)))
    assert [picture.tobytes() for picture in shown] == list(sent.composited_frames)


def test_the_moment_on_the_sheet_is_one_of_the_clip(models_root, speech: np.ndarray) -> None:
    catalog = AvatarCatalog(models_root)
    avatar = catalog.get("small")
    windows = reference.frame_windows(avatar, speech, 40)
    picture = Speaker(avatar, catalog).moment(speech, 3, heard=31)
    wanted = reference.pasted(avatar, 3, reference.mouths(avatar, [3], windows[31:32])[0])
    assert np.abs(picture.astype(int) - wanted).max() <= 1


def test_without_an_encoder_the_stored_features_speak(tmp_path) -> None:
    stored = np.random.default_rng(4).uniform(0, 8, (5, 512)).astype(np.float32)
    np.save(tmp_path / "aud_ave.npy", stored)
    avatar = dataclasses.replace(write_avatar(tmp_path / "models", "small"), audio_encoder_path=None)
    catalog = AvatarCatalog(tmp_path / "models")
    assert "audio encoder" in str(loud_moment(avatar, catalog))
    with_features = dataclasses.replace(avatar, features_path=tmp_path / "aud_ave.npy")
    shown = loud_moment(with_features, catalog)
    assert isinstance(shown, Composite)
    frame = avatar.frame_count // 2
    heard = np.concatenate([np.zeros((8 - frame, 512)), stored, np.zeros((16, 512))])[:16].astype(np.float32)
    wanted = reference.pasted(avatar, frame, reference.mouths(avatar, [frame], heard[None])[0])
    assert (shown.frame, shown.picture.tobytes()) == (frame, wanted.tobytes())
