"""A session keeps its sound and sends it again: broken anywhere, any number of times, it gives what an unbroken one would."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync_client.session_config import Resume, SessionSetup
from lipsync_client.session_events import (
    AvatarSwitched,
    Frame,
    GoingAway,
    Interrupted,
    SegmentEnded,
    SessionEvent,
)
from lipsync_client.session_sending import HalfClose
from lipsync_client.session_sound import KEPT_WHOLE_S
from lipsync_client.session_state import SessionState
from shared_proto import compositing_pb2 as pb

from .replicas import Replica, frames_of, numerics_of, picture, sample_of

RATES = (16_000, 8_000, 11_025, 8_013, 48_000)


@dataclass
class Said:
    """The sound that the caller pushed for one segment."""

    sound: np.ndarray
    dropped: bool = False
    """By an interrupt."""


@dataclass
class Conversation:
    """A caller, the state under test, and the replica that serves its stream now."""

    rate: int
    dtype: str
    state: SessionState = field(init=False)
    replica: Replica = field(init=False)
    said: list[Said] = field(default_factory=list)
    open: bool = False
    interrupts: list[int] = field(default_factory=list)
    """The number of segments before each."""
    switches: list[tuple[str, int]] = field(default_factory=list)
    got: list[SessionEvent] = field(default_factory=list)
    _pushed: int = 0

    def __post_init__(self) -> None:
        self.state = SessionState(SessionSetup("anna", {"sample_rate": self.rate, "start_frame": 7}))
        self._connect()

    # The caller

    def push(self, count: int) -> None:
        samples = (np.arange(self._pushed, self._pushed + count) % 30_011 - 15_000).astype(np.int16)
        pushed = samples if self.dtype == "int16" else (samples / 30_000).astype(np.float32)
        self._pushed += count
        self.state.push(pushed)
        if not self.open:
            self.said.append(Said(pushed[:0]))
            self.open = True
        self.said[-1].sound = np.concatenate([self.said[-1].sound, pushed])

    def end(self) -> None:
        self.state.end_segment()
        self.open = False

    def interrupt(self) -> None:
        self.state.interrupt()
        self.interrupts.append(len(self.said))
        self.open = False
        for said in self.said:
            said.dropped = True

    def switch(self, start_frame: int) -> None:
        avatar = f"avatar{len(self.switches)}"
        self.switches.append((avatar, start_frame))
        self.state.switch(avatar, start_frame)

    # The connection

    def send(self, most: int) -> None:
        """Takes up to so many messages to the replica."""
        for _ in range(most):
            message = self.state.take()
            assert (message is not None) or not self.state.has_message
            if message is None:
                return
            if isinstance(message, HalfClose):
                self.replica.half_close()
            else:
                self.replica.take(message)

    def read(self, most: int) -> None:
        """Takes up to so many events to the caller."""
        events = self.replica.events
        for _ in range(min(most, len(events))):
            event = events.popleft()
            if event.HasField("started"):
                self.state.started(event.started)
            else:
                self.got += self.state.receive(event)

    def lose(self) -> None:
        """Loses what is under way in both directions, and opens a stream to another replica."""
        self.got += self.state.broken()
        self._connect()

    def hand_over(self, start: int) -> None:
        """Goes on with a new client, from what its caller has received and said. `start`: how early the sound begins again."""
        switched, last = self.of(AvatarSwitched), self.frames[-1] if self.frames else None
        avatar, position, numerics = "anna", 7, ""
        if switched:
            avatar, position = switched[-1].avatar, dict(self.switches)[switched[-1].avatar]
        if last and (not switched or last.number >= switched[-1].number):
            position, numerics = last.next_position, last.numerics
        shown = [sum(frame.segment == number for frame in self.frames) for number in range(len(self.said))]
        wanted = [n for n, said in enumerate(self.said) if shown[n] < frames_of(len(said.sound), self.rate) and not said.dropped]
        segment = wanted[0] if wanted else len(self.said)
        first = shown[segment] if wanted else 0
        latest = max(0, first - 10) if self.rate == 16_000 else 0
        resume = Resume(last.number + 1 if last else 0, segment, min(start, latest), first, numerics)
        self.state = SessionState(SessionSetup(avatar, {"sample_rate": self.rate, "start_frame": position}, resume))
        self._connect()
        for number in range(segment, len(self.said)):
            sound = self.said[number].sound
            self.state.push(sound[sample_of(resume.audio_start_frame if number == segment else 0, self.rate) :])
            if number < len(self.said) - 1 or not self.open:
                self.state.end_segment()

    def finish(self) -> None:
        self.state.close()
        self.open = False
        for _ in range(10_000):
            if self.state.is_over:
                return
            if self.replica.leaving and not self.replica.events:
                self.lose()
            self.send(3)
            self.replica.show(5)
            self.read(20)
        pytest.fail("the session does not come to its end")

    def _connect(self) -> None:
        self.replica = Replica(self.rate)
        self.replica.take(self.state.start())

    @property
    def frames(self) -> list[Frame]:
        return [event for event in self.got if isinstance(event, Frame)]

    def of(self, kind: type) -> list:
        return [event for event in self.got if isinstance(event, kind)]


STEPS = st.one_of(
    st.tuples(st.just("push"), st.integers(1, 12_000)),
    st.tuples(st.just("push"), st.integers(1, 12_000)),
    st.tuples(st.just("end"), st.just(0)),
    st.tuples(st.just("interrupt"), st.just(0)),
    st.tuples(st.just("switch"), st.integers(0, 50)),
    st.tuples(st.just("send"), st.integers(1, 12)),
    st.tuples(st.just("show"), st.integers(1, 20)),
    st.tuples(st.just("read"), st.integers(1, 20)),
    st.tuples(st.just("lose"), st.just(0)),
    st.tuples(st.just("leave"), st.just(0)),
)


@settings(max_examples=400)
@given(rate=st.sampled_from(RATES), dtype=st.sampled_from(["int16", "float32"]), steps=st.lists(STEPS, max_size=60))
def test_a_session_that_breaks_anywhere_is_as_an_unbroken_one(rate: int, dtype: str, steps: list[tuple[str, int]]) -> None:
    talk = Conversation(rate, dtype)
    for step, number in steps:
        match step:
            case "push":
                talk.push(number)
            case "switch":
                talk.switch(number)
            case "send":
                talk.send(number)
            case "show":
                talk.replica.show(number)
            case "read":
                talk.read(number)
            case "leave":
                talk.replica.leave()
            case _:
                getattr(talk, step)()
    talk.finish()
    check_frames(talk)
    check_segments(talk)
    check_answers(talk)


HANDED_OVER = st.one_of(
    st.tuples(st.just("push"), st.integers(1, 12_000)),
    st.tuples(st.just("end"), st.just(0)),
    st.tuples(st.sampled_from(["send", "show", "read"]), st.integers(1, 20)),
    st.tuples(st.just("lose"), st.just(0)),
    st.tuples(st.just("hand_over"), st.integers(0, 300)),
)


@settings(max_examples=200)
@given(rate=st.sampled_from(RATES), dtype=st.sampled_from(["int16", "float32"]), steps=st.lists(HANDED_OVER, max_size=60))
def test_a_new_client_goes_on_where_another_one_ended(rate: int, dtype: str, steps: list[tuple[str, int]]) -> None:
    talk = Conversation(rate, dtype)
    for step, number in steps:
        match step:
            case "push" | "send" | "read" | "hand_over":
                getattr(talk, step)(number)
            case "show":
                talk.replica.show(number)
            case _:
                getattr(talk, step)()
    talk.finish()
    check_frames(talk)
    shown = [[event.audio_us // 40_000 for event in talk.frames if event.segment == n] for n in range(len(talk.said))]
    assert shown == [list(range(frames_of(len(said.sound), rate))) for said in talk.said]


def resumed(resume: Resume) -> Conversation:
    talk = Conversation(16_000, "int16")
    talk.state = SessionState(SessionSetup("anna", {}, resume))
    talk.replica = Replica(16_000)
    talk.replica.take(talk.state.start())
    talk.read(1)
    return talk


def test_a_resumed_segment_that_is_interrupted_at_once_counts() -> None:
    talk = resumed(Resume(next_number=130, segment=3, audio_start_frame=90, first_frame=100))
    talk.state.interrupt()
    talk.send(10)
    talk.read(10)
    assert talk.got == [Interrupted(segment=3, next_number=130, audio_us=4_000_000)]
    talk.state.push(np.zeros(16_000, np.int16))
    talk.send(10)
    assert talk.replica.segments[0].number == 4


def test_a_resumed_segment_without_more_sound_ends_with_the_session() -> None:
    talk = resumed(Resume(next_number=130, segment=3, audio_start_frame=90, first_frame=100))
    talk.state.end_segment()
    talk.state.close()
    talk.send(10)
    assert talk.state.is_over
    assert talk.replica.closed


@pytest.mark.parametrize(
    ("rate", "resume"),
    [
        (16_000, Resume(next_number=-1, segment=0)),
        (16_000, Resume(next_number=20, segment=0, audio_start_frame=5, first_frame=14)),
        (48_000, Resume(next_number=20, segment=0, audio_start_frame=5, first_frame=16)),
    ],
)
def test_a_resume_that_lacks_sound_is_refused(rate: int, resume: Resume) -> None:
    with pytest.raises(ValueError, match=r"expected 0 or more|needs the sound from frame 4 on"):
        SessionSetup("anna", {"sample_rate": rate}, resume)


def check_frames(talk: Conversation) -> None:
    """Numbers and positions go on, each frame has its own sound, and was made from what an unbroken session would have heard."""
    avatar, position = "anna", 7
    starts = dict(talk.switches)
    for number, event in enumerate(event for event in talk.got if isinstance(event, Frame | AvatarSwitched)):
        if isinstance(event, AvatarSwitched):
            avatar, position = event.avatar, starts[event.avatar]
            continue
        said = talk.said[event.segment].sound
        frame = event.audio_us // 40_000
        heard = said / np.float32(32768) if talk.dtype == "int16" else said
        assert event.number == number - sum(isinstance(each, AvatarSwitched) for each in talk.got[: talk.got.index(event)])
        assert event.position == position
        assert event.picture == picture(heard, frame, talk.rate, position, avatar)
        assert event.numerics == numerics_of(avatar)
        assert event.audio is not None
        assert event.audio.dtype == talk.dtype
        np.testing.assert_array_equal(event.audio, said[sample_of(frame, talk.rate) : sample_of(frame + 1, talk.rate)])
        position += 1


def check_segments(talk: Conversation) -> None:
    ended = {event.segment: event for event in talk.of(SegmentEnded)}
    assert len(ended) == len(talk.of(SegmentEnded))
    for number, said in enumerate(talk.said):
        frames = [event.audio_us // 40_000 for event in talk.frames if event.segment == number]
        assert frames == list(range(len(frames)))
        whole = frames_of(len(said.sound), talk.rate)
        if not said.dropped:
            assert len(frames) == whole
        if number in ended:
            assert (len(frames), ended[number].frames) == (whole, whole)
            assert ended[number].audio_us == 1_000_000 * len(said.sound) // talk.rate
        else:
            assert said.dropped
    order = [event.segment for event in talk.got if isinstance(event, Frame | SegmentEnded)]
    assert order == sorted(order)


def check_answers(talk: Conversation) -> None:
    """Each interrupt has its one answer, in its place and true; no switch has two."""
    switched = [event.avatar for event in talk.of(AvatarSwitched)]
    assert len(set(switched)) == len(switched)
    places = [place for place, event in enumerate(talk.got) if isinstance(event, Interrupted)]
    assert len(places) == len(talk.interrupts)
    for place, before, after in zip(places, [0, *talk.interrupts], talk.interrupts, strict=False):
        event = talk.got[place]
        earlier = [each for each in talk.got[:place] if isinstance(each, Frame)]
        later = [each for each in talk.got[place:] if isinstance(each, Frame)]
        assert all(frame.segment >= after for frame in later)
        assert event.next_number == len(earlier)
        shown = [sum(frame.segment == number for frame in earlier) for number in range(after)]
        lengths = [len(said.sound) for said in talk.said[:after]]
        unfinished = [n for n in range(before, after) if shown[n] < frames_of(lengths[n], talk.rate)]
        segment = unfinished[0] if unfinished else after - 1
        assert event.segment == segment
        audio_us = min(40_000 * shown[segment], 1_000_000 * lengths[segment] // talk.rate) if segment >= 0 else 0
        assert event.audio_us == audio_us


def test_a_lost_session_begins_anew_if_nothing_had_started() -> None:
    talk = Conversation(16_000, "int16")
    talk.push(5000)
    talk.send(10)
    talk.lose()
    assert talk.replica.config is not None
    assert not talk.replica.config.HasField("resume")


def test_sound_beyond_what_the_server_takes_waits() -> None:
    talk = Conversation(16_000, "int16")
    mark = talk.state.push(np.zeros(16_000 * 4, np.int16))
    talk.read(1)
    talk.send(1000)
    assert 1400 < talk.replica.buffered_ms < 1500
    assert not talk.state.is_sent(mark)
    for _ in range(200):
        talk.replica.show(10)
        talk.read(10)
        talk.send(10)
    assert talk.state.is_sent(mark)


def test_an_interrupt_does_not_wait_behind_the_sound_that_it_drops() -> None:
    talk = Conversation(16_000, "int16")
    mark = talk.state.push(np.zeros(16_000 * 4, np.int16))
    talk.state.interrupt()
    assert talk.state.is_sent(mark)
    sent = deque(iter(talk.state.take, None))
    kinds = [message.WhichOneof("message") for message in sent if isinstance(message, pb.SessionRequest)]
    assert kinds == ["audio", "interrupt"]
    assert sum(len(message.audio.data) for message in sent) == 4


def test_frames_that_come_twice_are_given_once() -> None:
    talk = Conversation(16_000, "int16")
    talk.push(32_000)
    talk.read(1)
    talk.send(100)
    talk.replica.show(3)
    talk.replica.events.extend(list(talk.replica.events))
    talk.read(100)
    assert [frame.number for frame in talk.frames] == [0, 1, 2]


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_of_an_endless_segment_little_is_kept(rate: int) -> None:
    """At other rates than 16 kHz a minute, so that frames are the same to the bit; after that too little to hear a difference."""
    state = SessionState(SessionSetup("anna", {"sample_rate": rate}))
    state.started(pb.SessionStarted(max_buffered_ms=5000))
    seconds = KEPT_WHOLE_S + 5
    for number in range(25 * seconds):
        state.push(np.ones(rate // 25, np.int16))
        frame = pb.SessionFrame(number=number, segment=0, audio_us=40_000 * number)
        state.receive(pb.SessionEvent(frames=pb.SessionFrames(frames=[frame])))
    state.broken()
    resume = state.start().config.resume
    assert resume.first_frame == 25 * seconds
    assert resume.audio_start_frame == 25 * seconds - (10 if rate == 16_000 else 12)
    data = state.take()
    assert isinstance(data, pb.SessionRequest)
    assert len(data.audio.data) == 4 * rate // 25 * min(5, 25 * seconds - resume.audio_start_frame)


def test_a_server_that_goes_away_gets_no_new_segment() -> None:
    talk = Conversation(16_000, "int16")
    talk.push(32_000)
    talk.end()
    talk.read(1)
    talk.send(2)
    talk.push(8_000)
    talk.replica.leave()
    talk.read(5)
    assert talk.of(GoingAway)
    talk.send(100)
    assert [segment.number for segment in talk.replica.segments] == [0]
