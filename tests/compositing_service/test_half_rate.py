"""A session that may be halved, before an inference service that says that it is overloaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2
from shared_proto.timing import rows_read

from .fake_inference import HEIGHT, ROW_BYTES, WIDTH, FakeInference, Regions, rect_of

FRAMES = 40
SOUND = np.full(640 * FRAMES, 0.25, "<f4").tobytes()
CALLS = 300
# Frames that may be planned before the first mouths say how it is.
FIRST = 12


class Told:
    """Sends mouths whose colour is their frame's place in the sound, with a level of overload."""

    def __init__(self, level: inference_pb2.Overload.ValueType, *, is_older: bool = False) -> None:
        self._level = level
        self._is_older = is_older
        self.batches: list[int] = []
        self.mouths = 0

    async def __call__(self, request: inference_pb2.InferBatchRequest, _: Any) -> Regions:
        halved = request.mouth_rate == inference_pb2.MOUTH_RATE_HALVED and not self._is_older
        first = request.audio_start_frame + request.lead_in_frames
        places = range(first, first + request.batch_size, 2 if halved else 1)
        unknown = 0
        if request.return_rows:
            self.batches.append(request.batch_size)
            self.mouths += len(places)
            unknown = rows_read(request.batch_size, request.look_ahead_frames) - len(request.feature_rows) // ROW_BYTES
        mouths = np.zeros((len(places), 320, 320, 3), np.uint8)
        mouths[...] = np.array(places, np.uint8)[:, None, None, None]
        yield inference_pb2.MouthRegion(
            frame_count=len(places),
            data=mouths.tobytes(),
            mouth_format=inference_pb2.UINT8_BGR,
            feature_rows=bytes(ROW_BYTES * unknown),
            silent=bytes(unknown),
            overload=self._level,
        )


async def spoken(serve: Callable[..., Any], **config: Any) -> tuple[list[pb.SessionFrame], list[pb.SessionStatus]]:
    """Speaks for 1.6 s. Returns the frames of the sound, and what was said of the session."""

    async def messages() -> AsyncIterator[pb.SessionRequest]:
        message = pb.SessionConfig(model_id="demo", output_format=pb.FORMAT_RAW_BGR, idle=pb.IDLE_NONE, **config)
        yield pb.SessionRequest(config=message)
        yield pb.SessionRequest(audio=pb.SessionAudio(data=SOUND))
        yield pb.SessionRequest(end_of_segment=pb.EndOfSegment())

    async with serve() as service, asyncio.timeout(90):
        events = [event async for event in service.stub.StreamComposite(messages())]
    statuses = [event.status for event in events if event.HasField("status")]
    return [frame for event in events for frame in event.frames.frames], statuses


def mouth_of(frame: pb.SessionFrame) -> int:
    """The place in the sound of the mouth that a frame shows."""
    rect = rect_of(frame.frame_index)
    return int(np.frombuffer(frame.picture, np.uint8).reshape(HEIGHT, WIDTH, 3)[rect.y1 + 40, rect.x1 + 40, 0])


async def test_every_second_mouth_is_repeated_and_nothing_else_changes(
    serve: Callable[..., Any], inference: FakeInference
) -> None:
    told = Told(inference_pb2.OVERLOAD_HALF_RATE)
    inference.script.extend([told] * CALLS)
    frames, statuses = await spoken(serve, allow_half_rate=True)
    assert [frame.audio_us for frame in frames] == [40_000 * place for place in range(FRAMES)]
    assert all(after.number > before.number for before, after in pairwise(frames))
    assert all(frame.speech for frame in frames)
    behind = [place - mouth_of(frame) for place, frame in enumerate(frames)]
    assert set(behind) == {0, 1}
    assert all(sum(pair) < 2 for pair in pairwise(behind)), "no two frames that follow each other repeat a mouth"
    assert told.mouths == FRAMES - sum(behind)
    assert sum(behind) >= (FRAMES - FIRST) // 2 - 1
    assert [status.overload for status in statuses][-1:] == [pb.OVERLOAD_HALF_RATE]


@pytest.mark.parametrize("is_older", [False, True], ids=["it is not allowed", "a replica that is older"])
async def test_a_session_has_every_mouth_where(serve: Callable[..., Any], inference: FakeInference, is_older: bool) -> None:
    told = Told(inference_pb2.OVERLOAD_REFUSING, is_older=is_older)
    inference.script.extend([told] * CALLS)
    frames, _ = await spoken(serve, allow_half_rate=is_older)
    assert [mouth_of(frame) for frame in frames] == list(range(FRAMES))


@pytest.mark.parametrize(
    ("level", "most"), [(inference_pb2.OVERLOAD_NONE, 4), (inference_pb2.OVERLOAD_LARGER_GROUPS, 8)], ids=["never", "overloaded"]
)
async def test_groups_are_larger_under_overload(
    serve: Callable[..., Any], inference: FakeInference, level: inference_pb2.Overload.ValueType, most: int
) -> None:
    told = Told(level)
    inference.script.extend([told] * CALLS)
    frames, statuses = await spoken(serve)
    assert len(frames) == FRAMES
    assert max(told.batches) == most
    assert all(status.overload == level for status in statuses[-1:])
