"""Sessions of messages in any order and at any moment: whatever comes, the events keep the rules, and nothing fails."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import av
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_proto import compositing_pb2 as pb

from .conftest import Duo
from .processes import assert_no_trace
from .talking import FAST, Talk, at_once, config, noise

SOUND = noise(3.0)

messages = st.one_of(
    st.tuples(st.just("sound"), st.integers(1, 40_000)),
    st.tuples(st.just("end"), st.none()),
    st.tuples(st.just("interrupt"), st.none()),
    st.tuples(st.just("switch"), st.sampled_from(["small", "other", "forward", "nobody", ""])),
    st.tuples(st.just("key frame"), st.none()),
    st.tuples(st.just("wait"), st.floats(0, 0.5)),
    st.tuples(st.just("nothing"), st.none()),
)
configs = st.fixed_dictionaries(
    {
        "pacing": st.sampled_from([pb.REALTIME, pb.REALTIME, FAST]),
        "output_format": st.sampled_from([pb.FORMAT_JPEG, pb.FORMAT_H264]),
        "idle": st.sampled_from([pb.IDLE_REST, pb.IDLE_STORED, pb.IDLE_NONE]),
        "look_ahead_frames": st.sampled_from([6, 7, 9, 12]),
        "sample_rate": st.sampled_from([16_000, 16_000, 44_100, 48_000]),
        "cushion_ms": st.sampled_from([0, 0, 120]),
    }
)


def send(talk: Talk, kind: str, value: Any) -> None:
    match kind:
        case "sound":
            talk.send(audio=pb.SessionAudio(data=SOUND[: 4 * value]))
        case "end":
            talk.send(end_of_segment=pb.EndOfSegment())
        case "interrupt":
            talk.send(interrupt=pb.Interrupt())
        case "switch":
            talk.send(switch_avatar=pb.SwitchAvatar(model_id=value, start_frame_idx=100))
        case "key frame":
            talk.send(request_key_frame=pb.RequestKeyFrame())
        case "wait":
            time.sleep(value)
        case _:
            talk.send()


@dataclass
class Follower:
    """Follows the events of one session, and asserts that each may come after those before it."""

    has_gaps: bool
    """Numbers grow while no frame is shown."""
    number: int = 0
    position: int = 0
    segment: int = -1
    frames: int = 0
    """Those of the segment that were shown."""
    dropped: int = -1
    """Segments up to this one may show no more."""
    must_be: int | None = None
    """The number of the next frame, as an event before it said."""
    has_ended: bool = True

    def frame(self, frame: pb.SessionFrame) -> None:
        assert frame.number >= self.number if self.has_gaps else frame.number == self.number
        assert self.must_be in (None, frame.number) or (self.has_gaps and frame.number > (self.must_be or 0))
        assert frame.position == self.position
        assert frame.picture
        if frame.audio_us >= 0:
            if frame.segment != self.segment:
                assert frame.segment > max(self.segment, self.dropped)
                assert self.has_ended or self.dropped >= self.segment
                self.segment, self.frames, self.has_ended = frame.segment, 0, False
            assert frame.audio_us == 40_000 * self.frames
            assert not self.has_ended
            self.frames += 1
        else:
            assert not frame.speech
        assert frame.segment == self.segment
        self.number, self.position, self.must_be = frame.number + 1, frame.next_position, None

    def event(self, event: pb.SessionEvent) -> None:
        match event.WhichOneof("event"):
            case "frames":
                for frame in event.frames.frames:
                    self.frame(frame)
            case "segment_ended":
                ended = event.segment_ended
                assert (ended.segment, ended.frames) == (self.segment, self.frames)
                self.has_ended = True
            case "interrupted":
                answer = event.interrupted
                assert answer.next_number >= self.number if self.has_gaps else answer.next_number == self.number
                assert answer.segment >= self.segment
                shown_us = 40_000 * self.frames if answer.segment == self.segment and self.frames else 0
                assert shown_us - 40_000 < answer.audio_us <= shown_us or answer.audio_us == shown_us == 0
                self.dropped, self.must_be = max(self.dropped, answer.segment), answer.next_number
            case "avatar_switched":
                self.position = 100
                self.must_be = event.avatar_switched.number


# Four sessions at once, each with messages of its own.
several = st.lists(st.tuples(configs, st.lists(messages, max_size=25)), min_size=4, max_size=4)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(several)
def test_whatever_comes_the_events_keep_the_rules(duo: Duo, sessions: list[tuple[dict[str, Any], list[tuple[str, Any]]]]) -> None:
    at_once(partial(follow, duo), sessions)


def follow(duo: Duo, fields: dict[str, Any], script: list[tuple[str, Any]]) -> None:
    with Talk(duo.pictures, config(**fields)) as talk:
        talk.wait(lambda: talk.of("started"))
        for kind, value in script:
            send(talk, kind, value)
        talk.send(interrupt=pb.Interrupt())
        talk.say(noise(0.1 * fields["sample_rate"] / 16_000))
        talk.end()
    follower = Follower(has_gaps=fields["idle"] == pb.IDLE_NONE and fields["pacing"] == pb.REALTIME)
    for event in talk.events:
        follower.event(event)
    assert len(talk.of("interrupted")) == 1 + sum(kind == "interrupt" for kind, _ in script)
    switches = sum(kind == "switch" for kind, _ in script)
    # The last one may still load when the session ends.
    assert switches - 1 <= len(talk.of("avatar_switched")) + len(talk.of("switch_failed")) <= switches
    assert follower.has_ended
    assert talk.of("segment_ended")[-1].frames == 3
    if fields["output_format"] == pb.FORMAT_H264:
        check_stream(talk)
    assert_no_trace(duo.compositing, of=talk.of("started")[0].session_id)


def check_stream(talk: Talk) -> None:
    """FFmpeg's decoder makes a picture of each access unit, and each avatar begins with a key frame."""
    assert talk.frames[0].key_frame
    switched = {event.number for event in talk.of("avatar_switched")}
    assert switched & {frame.number for frame in talk.frames} <= {frame.number for frame in talk.frames if frame.key_frame}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    pictures = [picture for frame in talk.frames for picture in decoder.decode(av.Packet(frame.picture))]
    pictures += decoder.decode(None)
    assert len(pictures) == len(talk.frames)
    assert not any(picture.is_corrupt for picture in pictures)
