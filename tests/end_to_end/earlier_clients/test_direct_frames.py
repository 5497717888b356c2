"""Clients of the earlier direct server that ask for frames: by the clip's features, or of sound in pieces."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from shared_proto import inference_pb2
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from ..avatars import rect
from ..conftest import CALL_S, SAMPLES_A_FRAME
from ..contract_client import ContractClient
from ..stored_rows import rows, windows
from .conftest import FRAMES, composited
from .sound import pieces


def test_one_frame_says_what_its_clip_says_there(direct: ContractClient, pictures: CompositingServiceStub) -> None:
    for frame_id in (0, 7, 20):
        reply = direct("GenerateInference", model_name="heard", frame_id=frame_id)
        assert (reply.success, reply.error, reply.model_name, reply.frame_id) == (True, "", "heard", frame_id)
        window = windows(rows(), [frame_id]).astype("<f4").tobytes()
        [wanted] = composited(pictures, model_id="heard", audio_features=window, batch_size=1, start_frame_idx=frame_id)
        assert reply.prediction_data == wanted
        box = rect(frame_id)
        assert list(reply.bounds) == [box.x1, box.y1, box.x2, box.y2]
        assert reply.prediction_shape == "320x320x3"
        assert reply.inference_time_ms > 0
        assert reply.composite_time_ms > 0
        assert reply.prepare_time_ms >= 0
        assert list(reply.optimizations) == ["memory_mapped_features", "spliced_jpeg"]


def test_only_work_that_was_saved_is_claimed(direct: ContractClient) -> None:
    """A mouth that takes most of the picture is encoded with all of it."""
    reply = direct("GenerateInference", model_name="wide", frame_id=0)
    assert list(reply.optimizations) == ["memory_mapped_features"]


def test_a_batch_has_the_frames_in_its_order(direct: ContractClient) -> None:
    frame_ids = [3, 20, 3, 0, *range(FRAMES)] * 3  # more than one order holds
    reply = direct("GenerateBatchInference", model_name="heard", frame_ids=frame_ids)
    assert [each.frame_id for each in reply.responses] == frame_ids
    alone = {each: direct("GenerateInference", model_name="heard", frame_id=each).prediction_data for each in set(frame_ids)}
    assert [each.prediction_data for each in reply.responses] == [alone[each] for each in frame_ids]
    assert reply.total_processing_time_ms > 0
    assert reply.avg_frame_time_ms == pytest.approx(reply.total_processing_time_ms / len(frame_ids), abs=1)


def test_sound_in_pieces(
    direct: ContractClient, channels: list[grpc.Channel], pictures: CompositingServiceStub, speech: np.ndarray
) -> None:
    """Rows that the pieces do not hold are those next to them; the others are those of the whole sound."""
    first, count = 22, 57
    reply = direct(
        "GenerateBatchWithAudio",
        model_name="heard",
        start_frame_id=first,
        frame_count=count,
        audio_chunks=pieces(speech, first, count),
    )
    assert [each.frame_id for each in reply.responses] == list(range(first, first + count))
    assert {tuple(each.optimizations) for each in reply.responses} == {("spliced_jpeg",)}
    encoding = inference_pb2.EncodeAudioRequest(
        model_id="heard", raw_audio=speech.tobytes(), first_row=first - 9, row_count=count + 15
    )
    encoded = InferenceServiceStub(channels[1]).EncodeAudio(encoding, timeout=CALL_S)
    whole = np.frombuffer(encoded.feature_rows, "<f4").reshape(-1, 512)
    heard = np.concatenate([whole[[2, 2]], whole[2:-4], np.repeat(whole[-5:-4], 4, axis=0)])
    assert heard.shape == whole.shape
    wanted = []
    for start in range(0, count, 50):
        size = min(50, count - start)
        fields = {"feature_rows": heard[start : start + size + 15].tobytes(), "start_frame_idx": first + start}
        wanted += composited(pictures, model_id="heard", batch_size=size, **fields)
    assert [each.prediction_data for each in reply.responses] == wanted


def test_frames_of_sound_are_the_same_however_it_is_cut(direct: ContractClient, speech: np.ndarray) -> None:
    """But for those near the ends of a batch, whose rows reach beyond the pieces."""

    def frames(first: int, count: int) -> list[bytes]:
        fields = {"start_frame_id": first, "frame_count": count, "audio_chunks": pieces(speech, first, count)}
        return [each.prediction_data for each in direct("GenerateBatchWithAudio", model_name="heard", **fields).responses]

    whole = frames(10, 60)
    for first in (14, 33):
        assert frames(first, 20)[2:-5] == whole[first - 10 :][2:15]


def test_five_hundred_frames_of_sound(direct: ContractClient) -> None:
    sound = np.random.default_rng(8).normal(0, 0.1, 515 * SAMPLES_A_FRAME).astype("<f4")
    reply = direct("GenerateBatchWithAudio", model_name="heard", frame_count=500, audio_chunks=pieces(sound, 8, 500))
    assert [each.frame_id for each in reply.responses] == list(range(500))
    assert all(each.prediction_data.startswith(b"\xff\xd8") for each in reply.responses)
