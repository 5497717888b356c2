"""The rules of a session without I/O, in virtual time: clock, numbers, segments, stalls, interrupts, switches, ends."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from compositing_service.sessions.frames import Finished, MakeIdle, PlannedFrame, SendFrames, Shown, WaitForChange, WaitUntil
from compositing_service.sessions.machine import InterruptedAt, Machine
from compositing_service.sessions.plan import Plan
from compositing_service.sessions.tables import Message
from service_kit.errors import InvalidRequest

from ..end_to_end.processes import resident_mb

START_S = 1000.0
PLAN = Plan(rate=16_000, look_ahead=12, in_real_time=True, cushion_ms=0, frames_ahead=8)
Frame = PlannedFrame[str]


def shown(name: str = "anna", first: int = 0, *, idle_frames: bool = True) -> Shown[str]:
    """An avatar whose idle frames step by 2, so that they can be told from speech."""
    return Shown(name, first, lambda position, is_idle: position + (2 if is_idle else 1), idle_frames)


@dataclass
class Player:
    """Does what a machine says, in virtual time, and makes each picture after `delay_s`."""

    machine: Machine[str]
    now_s: float = START_S
    delay_s: float = 0.0
    sent: list[tuple[float, Frame]] = field(default_factory=list)
    ended: list[tuple[int, int]] = field(default_factory=list)
    """Segments that ended, with the number of frames sent before."""
    finished: bool = False
    _ready_s: dict[Frame, float] = field(default_factory=dict)

    def run(self, seconds: float) -> list[Frame]:
        """Lets time pass, and returns what is sent meanwhile."""
        end_s, first = self.now_s + seconds, len(self.sent)
        planned = set(self.machine.planned)  # an interrupt drops the others
        self._ready_s = {frame: ready_s for frame, ready_s in self._ready_s.items() if frame in planned}
        while not self.finished:
            next_s = self._turn()
            if next_s is None or next_s > end_s:
                break
            self.now_s = max(self.now_s, next_s)
        self.now_s = end_s
        return [frame for _, frame in self.sent[first:]]

    def _turn(self) -> float | None:
        """Does one step. Returns when to do the next; None: not before something comes."""
        for frame in self.machine.plan_frames(self.now_s):
            self._ready_s[frame] = self.now_s + self.delay_s
        for frame, ready_s in self._ready_s.items():
            if ready_s <= self.now_s and frame.picture is None:
                frame.picture = b"picture"
        waiting = [ready_s for ready_s in self._ready_s.values() if ready_s > self.now_s]
        match self.machine.next_step(self.now_s):
            case Finished():
                self.finished = True
                return None
            case SendFrames(frames):
                self._send(frames)
            case MakeIdle(frame):
                self._send([frame])
            case WaitUntil(at_s):
                assert at_s > self.now_s
                return min([at_s, *waiting])
            case WaitForChange():
                return min(waiting, default=None)
        return self.now_s

    def _send(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._ready_s.pop(frame, None)
            self.sent.append((self.now_s, frame))
            if segment := self.machine.sent(frame, self.now_s):
                self.ended.append((segment.number, len(self.sent)))


def player(plan: Plan = PLAN, avatar: Shown[str] | None = None, **more: float) -> Player:
    machine = Machine(plan, avatar or shown())
    machine.start(START_S)
    return Player(machine, **more)


def speak(player: Player, seconds: float, *, end: bool = True) -> None:
    player.machine.sound(np.zeros(round(seconds * 16_000), np.float32))
    if end:
        player.machine.end_of_segment()


def speech(frames: list[Frame]) -> list[int]:
    """The places in their segments of the frames that speak."""
    return [frame.frame for frame in frames if frame.segment]


def test_while_nobody_speaks_idle_frames_leave_on_the_clock() -> None:
    session = player()
    session.run(1.0)
    assert [frame.number for _, frame in session.sent] == list(range(26))
    assert [at_s for at_s, _ in session.sent] == pytest.approx([START_S + 0.04 * n for n in range(26)], abs=1e-9)
    assert [frame.position for _, frame in session.sent] == list(range(0, 52, 2))
    assert {(frame.segment_number, frame.frame) for _, frame in session.sent} == {(-1, -1)}


def test_speech_takes_the_next_numbers_and_positions_and_idle_frames_follow_it() -> None:
    session = player()
    session.run(0.1)
    speak(session, 0.4)
    frames = session.run(1.0)
    assert speech(frames) == list(range(10))
    assert [frame.number for _, frame in session.sent] == list(range(len(session.sent)))
    positions = [frame.position for frame in frames]
    assert positions[:10] == list(range(6, 16))
    assert positions[10:13] == [16, 18, 20]
    assert [frame.next_position for frame in frames[9:11]] == [16, 18]
    assert session.ended == [(0, 13)]
    assert frames[12].segment_number == 0


def test_segments_sent_ahead_follow_each_other_without_an_idle_frame() -> None:
    session = player()
    for _ in range(3):
        speak(session, 0.2)
    frames = session.run(1.0)
    assert [(frame.segment_number, frame.frame) for frame in frames[:15]] == [(s, k) for s in range(3) for k in range(5)]
    assert [segment for segment, _ in session.ended] == [0, 1, 2]


@pytest.mark.parametrize("samples", [1, 639, 640, 641])
def test_the_shortest_segments_have_a_frame_for_each_40_ms_begun(samples: int) -> None:
    session = player()
    session.machine.sound(np.zeros(samples, np.float32))
    session.machine.end_of_segment()
    assert speech(session.run(0.5)) == list(range(-(-samples // 640)))
    assert len(session.ended) == 1


def test_an_end_without_sound_does_nothing() -> None:
    session = player()
    session.machine.end_of_segment()
    speak(session, 0.04)
    session.machine.end_of_segment()
    session.machine.end_of_segment()
    speak(session, 0.04)
    session.run(1)
    assert [segment for segment, _ in session.ended] == [0, 1]


def test_when_the_sound_runs_out_idle_frames_bridge_it_and_nothing_is_left_out() -> None:
    session = player()
    speak(session, 1.0, end=False)
    frames = session.run(1.2)
    assert speech(frames) == list(range(14))  # the last reads row 19, up to sample 15,400
    assert session.machine.stalls == 1
    speak(session, 1.0)
    frames = session.run(2.0)
    assert speech(frames) == list(range(14, 50))
    assert session.machine.stalls == 1
    assert [frame.number for _, frame in session.sent] == list(range(len(session.sent)))


def test_a_cushion_delays_the_beginning_and_the_going_on_after_a_stall() -> None:
    session = player(replace(PLAN, cushion_ms=200))
    speak(session, 0.6, end=False)
    assert speech(session.run(0.5)) == []  # frames 0 to 3 could be made, but only 400 ms are beyond the cushion
    assert session.machine.stalls == 0
    speak(session, 0.1, end=False)
    assert speech(session.run(0.5)) == list(range(7))
    assert session.machine.stalls == 1
    speak(session, 0.1, end=False)
    assert speech(session.run(0.5)) == []
    speak(session, 0.13, end=False)
    assert len(speech(session.run(0.5))) > 0
    session.machine.end_of_segment()
    session.run(1)
    assert session.ended


def test_a_frame_that_is_not_ready_is_late_and_the_next_keep_their_times() -> None:
    session = player(delay_s=0.1)
    speak(session, 2.0)
    session.run(3.0)
    times = {frame.number: at_s for at_s, frame in session.sent}
    assert times[0] == pytest.approx(START_S + 0.1)
    assert session.machine.slots
    assert session.machine.slots.late_frames > 0
    assert session.machine.slots.resets == 0
    assert times[40] == pytest.approx(START_S + 40 * 0.04)


def test_far_behind_the_clock_moves_and_no_number_is_left_out() -> None:
    session = player(delay_s=0.5)
    speak(session, 1.0)
    session.run(4.0)
    assert session.machine.slots
    assert session.machine.slots.resets >= 1
    assert [frame.number for _, frame in session.sent] == list(range(len(session.sent)))
    assert not session.machine.slots.meets_realtime(session.sent[10][0])
    assert session.machine.slots.meets_realtime(session.now_s + 10)


def test_a_slow_reader_counts_as_neither_late_nor_a_reset() -> None:
    session = player()
    session.run(0.2)
    session.now_s += 5.0
    assert session.machine.slots
    session.machine.slots.pause(session.machine.next_number(session.now_s), 5.0, session.now_s)
    session.run(1.0)
    assert session.machine.slots.late_frames == 0
    assert session.machine.slots.resets == 0


def test_an_interrupt_drops_everything_and_idle_frames_go_on_from_the_last_one_sent() -> None:
    session = player()
    speak(session, 2.0)
    speak(session, 1.0)
    before = session.run(0.39)
    assert len(before) == 10
    answer = session.machine.interrupt(session.now_s)
    assert answer == InterruptedAt(segment=0, next_number=10, audio_us=400_000)
    frames = session.run(0.2)
    assert speech(frames) == []
    assert [frame.number for frame in frames] == list(range(10, 15))
    assert frames[0].position == before[-1].next_position
    assert frames[0].segment_number == 0
    assert session.ended == []
    speak(session, 0.04)
    session.run(0.2)
    assert session.ended[0][0] == 2


def test_an_interrupt_answers_for_what_was_shown() -> None:
    session = player()
    assert session.machine.interrupt(session.now_s) == InterruptedAt(-1, 0, 0)
    session.machine.sound(np.zeros(650, np.float32))
    session.machine.end_of_segment()
    session.run(1.0)
    assert session.machine.interrupt(session.now_s) == InterruptedAt(0, 26, 40_625)
    speak(session, 1.0, end=False)
    assert session.machine.interrupt(session.now_s).audio_us == 0


def test_sound_after_an_interrupt_begins_the_next_segment() -> None:
    session = player()
    speak(session, 0.3, end=False)
    session.machine.interrupt(session.now_s)
    session.machine.interrupt(session.now_s)
    speak(session, 0.2)
    session.run(1.0)
    assert [segment for segment, _ in session.ended] == [1]


def test_without_idle_frames_numbers_grow_with_the_periods_and_the_position_stands_still() -> None:
    session = player(avatar=shown(idle_frames=False))
    assert session.run(1.0) == []
    assert session.machine.next_number(session.now_s) == 25
    speak(session, 0.08)
    first = session.run(1.0)
    assert [frame.number for frame in first] == [25, 26]
    speak(session, 0.04)
    second = session.run(1.0)
    assert [frame.number for frame in second] == [50]
    assert [frame.position for frame in first + second] == [0, 1, 2]


def test_without_idle_frames_a_stall_is_counted_and_sends_nothing() -> None:
    session = player(avatar=shown(idle_frames=False))
    speak(session, 0.6, end=False)
    assert speech(session.run(2.0)) == [0, 1, 2, 3]
    assert session.machine.stalls == 1
    session.machine.end_of_segment()
    frames = session.run(1.0)
    assert speech(frames) == list(range(4, 15))
    assert frames[0].number >= 50


def test_as_fast_as_possible_has_no_clock() -> None:
    session = player(replace(PLAN, in_real_time=False, frames_ahead=32), shown(idle_frames=False))
    speak(session, 4.0)
    frames = session.run(0.0)
    assert speech(frames) == list(range(100))
    assert [frame.number for frame in frames] == list(range(100))
    session.run(100.0)
    speak(session, 0.04)
    assert session.run(0.0)[0].number == 100


def test_a_switch_takes_effect_at_the_next_frame_that_is_planned() -> None:
    session = player()
    session.run(0.1)
    session.machine.switch_to(shown("ben", 500))
    frames = session.run(0.1)
    assert [(frame.shown.avatar, frame.position) for frame in frames] == [("ben", 500), ("ben", 502), ("ben", 504)]
    speak(session, 1.0)
    session.run(0.04)
    session.machine.switch_to(shown("carl", 7))
    frames = session.run(1.0)
    names = [frame.shown.avatar for frame in frames]
    assert names == sorted(names)
    assert speech(frames) == list(range(1, 25))
    assert next(frame.position for frame in frames if frame.shown.avatar == "carl") == 7


def test_an_interrupt_after_a_switch_begins_at_the_switch_s_position() -> None:
    session = player()
    speak(session, 1.0)
    session.run(0.04)
    session.machine.switch_to(shown("ben", 70))
    session.machine.plan_frames(session.now_s)
    session.machine.interrupt(session.now_s)
    assert session.run(0.05)[0].position == 70


def test_files_that_are_new_replace_those_of_frames_that_are_not_made() -> None:
    session = player(delay_s=10)
    speak(session, 0.2)
    session.run(0.04)
    old = session.machine.shown
    assert not session.machine.may_take_new_files or session.machine.segments[0].is_finished()
    session.machine.replan(old, shown("anna again"))
    assert {frame.shown.avatar for frame in session.machine.planned} == {"anna again"}


def test_a_half_closed_session_ends_with_its_last_segment() -> None:
    session = player()
    speak(session, 0.2, end=False)
    session.machine.end_of_segment(Message.HALF_CLOSE)
    frames = session.run(5.0)
    assert session.finished
    assert speech(frames) == list(range(5))
    assert len(frames) == 5
    with pytest.raises(InvalidRequest):
        session.machine.message(Message.SOUND)


def test_a_second_configuration_breaks_the_protocol() -> None:
    with pytest.raises(InvalidRequest, match="config: may be sent only once"):
        player().machine.message(Message.CONFIG)


def test_a_leaving_session_ends_at_once_when_idle() -> None:
    session = player()
    session.run(0.1)
    session.machine.leave()
    session.run(1.0)
    assert session.finished
    assert len(session.sent) == 3


def test_a_leaving_session_shows_the_running_segment_and_begins_no_other() -> None:
    session = player()
    speak(session, 0.4, end=False)
    session.run(0.1)
    session.machine.leave()
    assert session.machine.reads_sound
    speak(session, 0.2)
    assert not session.machine.reads_sound
    session.run(2.0)
    assert session.finished
    assert speech([frame for _, frame in session.sent]) == list(range(15))


def test_a_leaving_session_ends_after_the_segments_of_which_frames_are_planned() -> None:
    session = player()
    for _ in range(4):
        speak(session, 0.2)
    session.run(0.01)
    session.machine.leave()
    session.run(2.0)
    assert session.finished
    assert [segment for segment, _ in session.ended] == [0, 1]


def resumed(**more: int) -> Player:
    return player(replace(PLAN, is_resumed=True, **more))


def test_a_resumed_session_waits_for_its_first_frame() -> None:
    session = resumed(first_number=40, first_segment=2, first_frame=15, audio_start_frame=5)
    assert session.run(0.2) == []
    speak(session, 0.8)
    frames = session.run(2.0)
    assert session.sent[0][0] == pytest.approx(START_S + 0.2)
    assert speech(frames) == list(range(15, 25))
    assert [frame.number for frame in frames] == list(range(40, 40 + len(frames)))
    assert {frame.segment_number for frame in frames} == {2}


def test_a_resumed_session_waits_at_most_half_a_second() -> None:
    session = resumed(first_number=40, first_segment=2, first_frame=15, audio_start_frame=5)
    session.now_s += 0.5
    frames = session.run(0.1)
    assert [(frame.number, frame.segment_number) for frame in frames] == [(40, 2), (41, 2), (42, 2)]


def test_a_session_resumed_between_segments_goes_on_with_the_next_number() -> None:
    session = resumed(first_number=9, first_segment=3)
    frames = session.run(0.1)
    assert [(frame.number, frame.segment_number) for frame in frames] == [(9, 2), (10, 2), (11, 2)]
    speak(session, 0.04)
    session.run(0.2)
    assert session.ended[0][0] == 3


def test_a_resumed_segment_of_which_all_was_received_ends_without_a_frame() -> None:
    session = resumed(first_number=40, first_segment=2, first_frame=5, audio_start_frame=0)
    speak(session, 0.2)
    ended = session.machine.ended_without_frames()
    assert ended
    assert (ended.number, ended.frames, ended.audio_us) == (2, 5, 200_000)


@pytest.mark.slow
def test_eight_hours_show_no_drift_and_no_growth() -> None:
    """Utterances of some seconds, pauses, an interrupt now and then; the clock is compared with plain arithmetic."""
    session = player()
    rng = np.random.default_rng(8)
    held_mb: list[float] = []
    for hour in range(1, 9):
        while session.now_s < START_S + 3600 * hour:
            speak(session, float(rng.uniform(20, 120)))
            session.run(float(rng.uniform(10, 130)))
            if rng.random() < 0.1 or session.machine.buffered_ms > 300_000:
                session.machine.interrupt(session.now_s)
            at_s, frame = session.sent[-1]
            assert at_s == pytest.approx(START_S + 0.04 * frame.number, abs=1e-6)
            session.sent.clear()
            session.ended.clear()
        session.machine.interrupt(session.now_s)
        session.run(1.0)
        gc.collect()
        held_mb.append(resident_mb())
    # All the sound of an hour is 230 MB, and an object for each of its frames 5 MB.
    assert held_mb[-1] - held_mb[1] < 10
    assert session.machine.slots
    assert session.machine.slots.late_frames == session.machine.slots.resets == session.machine.stalls == 0
    assert session.machine.next_number(session.now_s) == pytest.approx(25 * (session.now_s - START_S), abs=2)
    assert len(session.machine.planned) <= PLAN.frames_ahead
