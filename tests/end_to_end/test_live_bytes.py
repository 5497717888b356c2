"""Rule 1 of live sessions: every frame has the bytes of a batch call for the whole segment, whatever happens around it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from .conftest import CALL_S, Duo
from .processes import running
from .talking import FAST, Talk, at_once, pcm, pieces_of

SECONDS = 1.3
RATES = (8_000, 16_000, 24_000, 44_100, 48_000)
LOOK_AHEADS = range(6, 13)

as_sessions = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
by_fours = settings(as_sessions, max_examples=3)


@dataclass(frozen=True)
class Clip:
    """A segment's sound as it is sent."""

    data: bytes
    rate: int
    encoding: int

    @property
    def fields(self) -> dict[str, Any]:
        return {"sample_rate": self.rate, "audio_encoding": self.encoding}

    @property
    def sample_bytes(self) -> int:
        return 2 if self.encoding == pb.PCM_INT16 else 4

    @property
    def frames(self) -> int:
        return -(-25 * (len(self.data) // self.sample_bytes) // self.rate)


@cache
def clip(rate: int, encoding: int, seed: int, seconds: float = SECONDS) -> Clip:
    """Loud and quiet by turns, with a stretch of silence."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(int(seconds * rate)) * 0.2
    samples[: int(0.1 * rate)] = 0
    return Clip(pcm(np.clip(samples, -1, 1), encoding), rate, encoding)


def wanted(duo: Duo, frame: pb.SessionFrame, sound: Clip, avatar: str, **more: Any) -> bytes:
    """Asks for one frame as the rule says."""
    request = pb.CompositeBatchRequest(
        model_id=avatar,
        raw_audio=sound.data,
        lead_in_frames=frame.audio_us // 40_000,
        batch_size=1,
        start_frame_idx=frame.position,
        **sound.fields,
        **more,
    )
    return bytes(duo.pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames[0])


def check(duo: Duo, frames: list[pb.SessionFrame], sound: Clip, avatar: str, **more: Any) -> None:
    for frame in frames:
        assert frame.picture == wanted(duo, frame, sound, avatar, **more), (frame.number, frame.audio_us)


def say(talk: Talk, sound: Clip, sizes: Iterator[int], *, end: bool = True) -> None:
    for piece in pieces_of(sound.data, sizes, sound.sample_bytes):
        talk.send(audio=pb.SessionAudio(data=piece))
    if end:
        talk.send(end_of_segment=pb.EndOfSegment())


SIZES = st.lists(st.integers(1, 9_000), min_size=1, max_size=6)


@as_sessions
@given(rate=st.sampled_from(RATES), encoding=st.sampled_from([pb.PCM_FLOAT32, pb.PCM_INT16]), sizes=SIZES)
def test_pieces_of_any_size_rate_and_encoding(duo: Duo, rate: int, encoding: int, sizes: list[int]) -> None:
    sound = clip(rate, encoding, 1)
    with Talk(duo.pictures, pb.SessionConfig(model_id="small", pacing=FAST, **sound.fields)) as talk:
        say(talk, sound, itertools.cycle(sizes))
        talk.end()
    assert [frame.audio_us for frame in talk.frames] == [40_000 * k for k in range(sound.frames)]
    assert [frame.number for frame in talk.frames] == [frame.position for frame in talk.frames] == list(range(sound.frames))
    check(duo, talk.frames[::3] + talk.frames[-2:], sound, "small")
    [ended] = talk.of("segment_ended")
    assert (ended.segment, ended.frames) == (0, sound.frames)
    assert ended.audio_us == 1_000_000 * (len(sound.data) // sound.sample_bytes) // rate


def test_a_sample_at_a_time(duo: Duo) -> None:
    sound = clip(16_000, pb.PCM_INT16, 2, 0.2)
    with Talk(duo.pictures, pb.SessionConfig(model_id="small", pacing=FAST, **sound.fields)) as talk:
        say(talk, sound, itertools.repeat(1))
        talk.end()
    assert len(talk.frames) == 5
    check(duo, talk.frames, sound, "small")


@pytest.mark.parametrize("avatar", ["small", "forward", "feather", "direct", "masked", "fixed", "wide", "static"])
def test_every_kind_of_avatar(duo: Duo, avatar: str) -> None:
    sound = clip(16_000, pb.PCM_FLOAT32, 3, 0.6)
    with Talk(duo.pictures, pb.SessionConfig(model_id=avatar, pacing=FAST, start_frame_idx=4)) as talk:
        say(talk, sound, itertools.repeat(1000))
        talk.end()
    check(duo, talk.frames[::4], sound, avatar)


@pytest.mark.parametrize(
    "more", [{"jpeg_quality": 40}, {"quality_preset": pb.QUALITY_HIGH}, {"output_format": pb.FORMAT_RAW_BGR}]
)
def test_every_form_of_output(duo: Duo, more: dict[str, Any]) -> None:
    sound = clip(16_000, pb.PCM_FLOAT32, 4, 0.4)
    with Talk(duo.pictures, pb.SessionConfig(model_id="small", pacing=FAST, **more)) as talk:
        say(talk, sound, itertools.repeat(640))
        talk.end()
    check(duo, talk.frames[::3], sound, "small", **more)


def rows_of(duo: Duo, sound: Clip, avatar: str) -> np.ndarray:
    """All rows that the frames of a segment read, row -9 first, of one call for the whole."""
    samples = np.frombuffer(sound.data, "<f4")
    if sound.rate != 16_000:
        samples = soxr.resample(samples, sound.rate, 16_000, quality="HQ")
    request = inference_pb2.EncodeAudioRequest(
        model_id=avatar, raw_audio=samples.astype("<f4").tobytes(), first_row=-9, row_count=sound.frames + 15
    )
    return np.frombuffer(duo.mouths.EncodeAudio(request, timeout=CALL_S).feature_rows, "<f4").reshape(-1, 512)


@as_sessions
@given(look_ahead=st.sampled_from(LOOK_AHEADS), rate=st.sampled_from([16_000, 48_000]), sizes=SIZES, ahead=st.booleans())
def test_a_shorter_look_ahead_repeats_the_last_row_that_it_may_read(
    duo: Duo, look_ahead: int, rate: int, sizes: list[int], ahead: bool
) -> None:
    """Frame k reads row min(j, k + L - 6) in place of each row j of k - 9 .. k + 6, also where more sound is there."""
    sound = clip(rate, pb.PCM_FLOAT32, 5)
    config = pb.SessionConfig(model_id="small", pacing=FAST, look_ahead_frames=look_ahead, **sound.fields)
    with Talk(duo.pictures, config) as talk:
        say(talk, sound, iter([len(sound.data)]) if ahead else itertools.cycle(sizes))
        talk.end()
    rows = rows_of(duo, sound, "small")
    assert len(talk.frames) == sound.frames
    for frame in talk.frames[::4] + talk.frames[-1:]:
        k = frame.audio_us // 40_000
        window = rows[[min(j, k + look_ahead - 6) + 9 for j in range(k - 9, k + 7)]]
        request = pb.CompositeBatchRequest(
            model_id="small", audio_features=window.tobytes(), batch_size=1, start_frame_idx=frame.position
        )
        assert frame.picture == duo.pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames[0]


def four(*case: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """So many cases that are tested at once."""
    return st.lists(st.tuples(*case), min_size=4, max_size=4)


@by_fours
@given(four(st.integers(0, 20), st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3), st.booleans()))
def test_segments_after_an_interrupt_do_not_hear_what_was_before(duo: Duo, cases: list[tuple[Any, ...]]) -> None:
    at_once(partial(hears_nothing_from_before, duo), cases)


def hears_nothing_from_before(duo: Duo, interrupted_after: int, lengths: list[float], real_time: bool) -> None:
    first = clip(16_000, pb.PCM_FLOAT32, 6, 2.0)
    config = pb.SessionConfig(model_id="small", pacing=pb.REALTIME if real_time else FAST)
    with Talk(duo.pictures, config) as talk:
        say(talk, first, itertools.repeat(3000), end=False)
        talk.wait(lambda: len(talk.speech) >= interrupted_after)
        talk.send(interrupt=pb.Interrupt())
        later = [clip(16_000, pb.PCM_FLOAT32, 7 + n, seconds) for n, seconds in enumerate(lengths)]
        for sound in later:
            say(talk, sound, itertools.repeat(2000))
        talk.end()
    [answer] = talk.of("interrupted")
    kinds = [event.WhichOneof("event") for event in talk.events]
    before = [f for event in talk.events[: kinds.index("interrupted")] for f in event.frames.frames if f.audio_us >= 0]
    assert {frame.segment for frame in before} <= {0}
    assert answer.segment == 0
    assert answer.audio_us == 40_000 * len(before)
    check(duo, before[::5], first, "small")
    for number, sound in enumerate(later, start=1):
        frames = [frame for frame in talk.speech if frame.segment == number]
        assert len(frames) == sound.frames
        check(duo, frames[::5], sound, "small")
    assert [ended.segment for ended in talk.of("segment_ended")] == list(range(1, len(later) + 1))
    assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))


@by_fours
@given(four(st.integers(0, 20), st.sampled_from([6, 12])))
def test_a_switch_in_the_middle_of_a_segment_goes_on_at_the_same_place(duo: Duo, cases: list[tuple[Any, ...]]) -> None:
    """The two avatars have encoders of their own, so the rows are computed anew."""
    at_once(partial(goes_on_at_the_same_place, duo), cases)


def goes_on_at_the_same_place(duo: Duo, switch_after: int, look_ahead: int) -> None:
    sound = clip(16_000, pb.PCM_FLOAT32, 9, 2.0)
    with Talk(duo.pictures, pb.SessionConfig(model_id="small", look_ahead_frames=look_ahead)) as talk:
        say(talk, sound, itertools.repeat(3000), end=False)
        talk.wait(lambda: len(talk.speech) >= switch_after)
        talk.send(switch_avatar=pb.SwitchAvatar(model_id="other", start_frame_idx=2))
        talk.wait(lambda: talk.of("avatar_switched"))
        talk.send(end_of_segment=pb.EndOfSegment())
        talk.end()
    [switched] = talk.of("avatar_switched")
    assert switched.model_id == "other"
    assert [frame.audio_us for frame in talk.speech] == [40_000 * k for k in range(50)]
    later = [frame for frame in talk.frames if frame.number >= switched.number]
    assert later[0].position == 2
    if look_ahead == 12:
        check(duo, [frame for frame in talk.speech if frame.number < switched.number][::6], sound, "small")
        check(duo, [frame for frame in later if frame.audio_us >= 0][::6], sound, "other")


@pytest.fixture(scope="module")
def replica(models_root: Path, duo: Duo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A second compositing service before the same inference service."""
    log = tmp_path_factory.mktemp("logs") / "replica"
    with (
        running("compositing", f"models_root={models_root}", f"inference_server.url={duo.inference.address}", log=log) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        yield CompositingServiceStub(channel)


@as_sessions
@given(broken_after=st.integers(1, 40), early=st.integers(0, 5), rate=st.sampled_from(RATES), look_ahead=st.sampled_from([7, 12]))
def test_a_session_resumed_on_another_replica_goes_on_with_the_same_bytes(
    duo: Duo, replica: Any, broken_after: int, early: int, rate: int, look_ahead: int
) -> None:
    """At other rates than 16 kHz the sound is sent from the segment's start."""
    sound = clip(rate, pb.PCM_FLOAT32, 10, 2.0)
    config = pb.SessionConfig(model_id="small", pacing=FAST, look_ahead_frames=look_ahead, **sound.fields)
    with Talk(duo.pictures, config) as talk:
        say(talk, sound, itertools.repeat(4000))
        whole = talk.end().frames
    last = whole[broken_after - 1]
    first_frame = last.audio_us // 40_000 + 1
    start = max(0, first_frame - 10 - early) if rate == 16_000 else 0
    config.start_frame_idx = last.next_position
    config.resume.CopyFrom(
        pb.SessionResume(next_number=last.number + 1, segment=0, audio_start_frame=start, first_frame=first_frame)
    )
    rest = Clip(sound.data[start * 640 * 4 :] if rate == 16_000 else sound.data, rate, sound.encoding)
    with Talk(replica, config) as again:
        say(again, rest, itertools.repeat(2500))
        resumed = again.end().frames
    assert [frame.number for frame in resumed] == [frame.number for frame in whole[broken_after:]]
    assert [frame.picture for frame in resumed] == [frame.picture for frame in whole[broken_after:]]
    assert [frame.audio_us for frame in resumed] == [frame.audio_us for frame in whole[broken_after:]]
    assert again.of("segment_ended") == talk.of("segment_ended")


def test_twenty_mixed_sessions_never_hear_each_other(duo: Duo) -> None:
    avatars = ["small", "other", "forward", "feather"]
    talks = [
        Talk(duo.pictures, pb.SessionConfig(model_id=avatars[n % 4], pacing=pb.REALTIME if n % 3 else FAST, idle=n % 4))
        for n in range(20)
    ]
    for n, talk in enumerate(talks):
        talk.__enter__()
        say(talk, clip(16_000, pb.PCM_FLOAT32, 100 + n, 0.8), itertools.repeat(900 + 50 * n))
    for n, talk in enumerate(talks):
        talk.end()
        assert len(talk.speech) == 20
        check(duo, talk.speech[::6], clip(16_000, pb.PCM_FLOAT32, 100 + n, 0.8), avatars[n % 4])
        talk.__exit__(None, None, None)
