"""The rules of a session without I/O, in virtual time: clock, numbers, segments, stalls, interrupts, switches."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

from compositing_service.sessions.machine import InterruptedAt

from ..end_to_end.processes import resident_mb
from .player import PLAN, START_S, player, shown, speak, speech


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
