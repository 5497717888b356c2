"""Frames over a socket are those of the call, to the byte, in their order, with their events."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from shared_proto import compositing_pb2 as pb

from ..end_to_end.talking import Talk, pcm
from .conftest import Stack
from .sockets import Shown, page

ENCODINGS = {"PCM_INT16": pb.PCM_INT16, "PCM_FLOAT32": pb.PCM_FLOAT32}
FAST = {"pacing": "AS_FAST_AS_POSSIBLE"}


def called(stack: Stack, sound: bytes, **config: object) -> list[pb.SessionFrame]:
    """The frames of the same session as a call."""
    message = pb.SessionConfig(model_id="small", pacing=pb.AS_FAST_AS_POSSIBLE, **config)  # type: ignore[arg-type]
    with Talk(stack.stub, message) as talk:
        talk.say(sound)
        return talk.end().frames


@pytest.mark.parametrize(
    ("encoding", "rate", "pieces"),
    [
        ("PCM_INT16", 16_000, (640,)),
        ("PCM_INT16", 48_000, (2, 1922, 65_536)),
        ("PCM_FLOAT32", 16_000, (4, 8, 20_000)),
        ("PCM_FLOAT32", 22_050, (50_000,)),
    ],
)
async def test_frames_are_those_of_the_call(
    stack: Stack, speech: np.ndarray, encoding: str, rate: int, pieces: tuple[int, ...]
) -> None:
    sound = pcm(speech, ENCODINGS[encoding])
    wanted = called(stack, sound, sample_rate=rate, audio_encoding=ENCODINGS[encoding], start_frame_idx=3, look_ahead_frames=8)
    config = {"model_id": "small", "sample_rate": rate, "audio_encoding": encoding, "start_frame_idx": 3, "look_ahead_frames": 8}
    async with page(stack.url, config | FAST) as opened:
        await opened.say(sound, itertools.cycle(pieces))
        await opened.send(close={})
        assert await opened.closed() == 1000
    assert [frame.picture for frame in opened.frames] == [frame.picture for frame in wanted]
    for shown, frame in zip(opened.frames, wanted, strict=True):
        assert (shown.number, shown.pts_us, shown.segment, shown.audio_us) == (
            frame.number,
            frame.pts_us,
            frame.segment,
            frame.audio_us,
        )
        assert (shown.position, shown.index, shown.speech) == (frame.position, frame.frame_index, frame.speech)


async def test_events_stand_in_their_place(stack: Stack, speech: np.ndarray) -> None:
    async with page(stack.url, {"model_id": "small", "session_id": "my-own"} | FAST) as opened:
        for length in (640, 2000):
            await opened.say(speech[:length].tobytes(), iter([8000]))
            await opened.send(end_of_segment={})
        await opened.wait(lambda: len(opened.of("segment_ended")) == 2)
        await opened.send(switch_avatar={"model_id": "nobody"})
        await opened.wait(lambda: opened.of("switch_failed"))
        await opened.say(speech[:640].tobytes(), iter([8000]))
        await opened.send(close={})
        assert await opened.closed() == 1000
    names = ["frame" if not isinstance(each, dict) else next(iter(each)) for each in opened.came]
    assert [name for name in names if name != "status"] == [
        "started", "frame", "segment_ended", *["frame"] * 4, "segment_ended", "switch_failed",
        "frame", "segment_ended",
    ]  # fmt: skip
    (started,) = opened.of("started")
    assert (started["session_id"], started["fps"], started["width"], started["height"]) == ("my-own", 25, 416, 304)
    assert (started["max_buffered_ms"], started["idle_timeout_ms"], started["max_session_ms"]) == (5000, 900_000, 0)
    assert opened.of("segment_ended")[1] == {"segment": 1, "frames": 4, "audio_us": 125_000}
    assert opened.of("switch_failed")[0]["code"] == "NOT_FOUND"


async def test_a_status_has_the_types_of_its_fields(stack: Stack, speech: np.ndarray) -> None:
    async with page(stack.url, {"model_id": "small"}) as opened:
        await opened.say(speech[:16_000].tobytes(), iter([64_000]))
        await opened.wait(lambda: opened.of("status"))
    status = opened.of("status")[0]
    assert set(status) == {field.name for field in pb.SessionStatus.DESCRIPTOR.fields}
    assert type(status["meets_realtime"]) is bool
    assert {type(status[name]) for name in ("buffered_ms", "late_frames", "stalls", "clock_resets")} == {int}


async def test_another_avatar_is_announced_before_its_first_frame(stack: Stack) -> None:
    async with page(stack.url, {"model_id": "small"}) as opened:
        await opened.wait(lambda: len(opened.frames) > 3)
        await opened.send(switch_avatar={"model_id": "other", "start_frame_idx": 1})
        await opened.wait(lambda: opened.of("avatar_switched") and isinstance(opened.came[-1], Shown))
    (switched,) = opened.of("avatar_switched")
    assert switched["model_id"] == "other"
    after = opened.came[opened.came.index({"avatar_switched": switched}) + 1]
    assert (after.number, after.position) == (switched["number"], 1)


async def test_an_interrupt_is_heard_while_sound_waits(stack: Stack, speech: np.ndarray) -> None:
    """The client keeps within max_buffered_ms, so its interrupt does not wait behind its own sound."""
    sound = np.concatenate([speech, speech[:30_000]])
    async with page(stack.url, {"model_id": "small"}) as opened:
        await opened.wait(lambda: opened.of("started"))
        await opened.say(sound.tobytes(), itertools.repeat(4 * 3200))
        await opened.wait(lambda: opened.spoken)
        await opened.send(interrupt={})
        await opened.wait(lambda: opened.of("interrupted"))
        assert opened.spoken[-1].audio_us < 3_000_000
        (answer,) = opened.of("interrupted")
        assert (answer["segment"], answer["audio_us"]) == (0, opened.spoken[-1].audio_us + 40_000)
        await opened.say(speech[:3200].tobytes(), iter([12_800]))
        await opened.send(close={})
        assert await opened.closed() == 1000
    assert [frame.audio_us for frame in opened.spoken if frame.segment == 1] == [0, 40_000, 80_000, 120_000, 160_000]


async def test_segments_that_an_interrupt_drops_in_the_gateway_count(stack: Stack, speech: np.ndarray) -> None:
    """The first one is more than the session takes at once, so the others wait when the interrupt comes."""
    async with page(stack.url, {"model_id": "small"}) as opened:
        await opened.wait(lambda: opened.of("started"))
        await opened.socket.send_bytes(np.tile(speech, 3).tobytes())
        for _ in range(2):
            await opened.send(end_of_segment={})
            await opened.socket.send_bytes(speech[:3200].tobytes())
        await opened.send(interrupt={})
        await opened.socket.send_bytes(speech[:3200].tobytes())
        await opened.send(close={})
        assert await opened.closed() == 1000
        (answer,) = opened.of("interrupted")
    assert answer["segment"] == 0
    assert [event["segment"] for event in opened.of("segment_ended")] == [3]
    assert {frame.segment for frame in opened.spoken} <= {0, 3}


async def test_a_jump_of_the_timeline_is_told_before_its_frame(stack: Stack) -> None:
    """The idle range of an avatar ends, and the timeline goes on from its other end."""
    async with page(stack.url, {"model_id": "small", "idle": "IDLE_STORED"}) as opened:
        await opened.wait(lambda: len(opened.frames) > 20)
    for first, second in itertools.pairwise(opened.frames):
        jumps = [jump["next_position"] for jump in opened.of("jump") if jump["number"] == first.number]
        assert second.position == (jumps[0] if jumps else first.position + 1)


@pytest.mark.parametrize("seed", range(3))
async def test_a_session_goes_on_over_another_socket(stack: Stack, speech: np.ndarray, seed: int) -> None:
    sound, chance = pcm(speech, pb.PCM_INT16), random.Random(seed)
    config = {"model_id": "small", "audio_encoding": "PCM_INT16", "start_frame_idx": 2} | FAST
    wanted = [frame.picture for frame in called(stack, sound, audio_encoding=pb.PCM_INT16, start_frame_idx=2)]
    lost_at = chance.randrange(1, len(wanted))
    async with page(stack.url, config) as first:
        await first.say(sound, itertools.repeat(6400))
        await first.wait(lambda: len(first.frames) >= lost_at)
    came = first.frames[:lost_at]
    begins = max(0, lost_at - 10)
    resume = {"next_number": came[-1].number + 1, "segment": 0, "audio_start_frame": begins, "first_frame": lost_at}
    position = came[-1].position + 1
    async with page(stack.url, config | {"resume": resume, "start_frame_idx": position}) as second:
        await second.say(sound[2 * 640 * begins :], itertools.repeat(6400))
        await second.send(close={})
        assert await second.closed() == 1000
    whole = [*came, *second.frames]
    assert [frame.picture for frame in whole] == wanted
    assert [frame.number for frame in whole] == list(range(len(wanted)))
    assert second.of("segment_ended") == [{"segment": 0, "frames": 75, "audio_us": 3_000_000}]
