"""Unlucky moments of a session, in virtual time: an event that comes while a frame is made or after a resume."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from compositing_service.sessions.frames import MakeIdle
from compositing_service.sessions.machine import InterruptedAt

from .player import START_S, player, resumed, shown, speak


def test_an_interrupt_drops_the_idle_frame_that_is_being_made() -> None:
    """It would leave with the number that `Interrupted` gives to the next frame."""
    session = player()
    session.run(0.1)
    session.now_s += 0.02
    step = session.machine.next_step(session.now_s)
    assert isinstance(step, MakeIdle)
    assert session.machine.is_next(step.frame)
    answer = session.machine.interrupt(session.now_s)
    assert answer.next_number == step.frame.number
    assert not session.machine.is_next(step.frame)
    assert session.run(0.01)[0].number == answer.next_number


def test_a_switch_drops_the_idle_frame_that_is_being_made() -> None:
    session = player()
    step = session.machine.next_step(session.now_s)
    assert isinstance(step, MakeIdle)
    session.machine.switch_to(shown("ben", 30))
    assert not session.machine.is_next(step.frame)
    first = session.run(0.01)[0]
    assert (first.number, first.shown.avatar, first.position) == (step.frame.number, "ben", 30)


def test_an_interrupt_of_a_resumed_segment_ends_that_segment() -> None:
    """The next segment follows from its start, not the rest of the interrupted one."""
    session = resumed(first_number=40, first_segment=2, first_frame=15, audio_start_frame=5)
    assert session.machine.interrupt(session.now_s) == InterruptedAt(segment=2, next_number=40, audio_us=600_000)
    assert session.machine.interrupt(session.now_s) == InterruptedAt(segment=2, next_number=40, audio_us=600_000)
    speak(session, 0.2)
    frames = [frame for frame in session.run(2.0) if frame.segment]
    assert [(frame.segment_number, frame.frame) for frame in frames] == [(3, k) for k in range(5)]


def test_an_interrupt_after_a_resume_between_segments_begins_the_next_one_anew() -> None:
    session = resumed(first_number=40, first_segment=2)
    assert session.machine.interrupt(session.now_s) == InterruptedAt(segment=1, next_number=40, audio_us=0)
    speak(session, 0.2)
    session.run(1.0)
    assert session.ended[0][0] == 2


def test_a_resumed_segment_that_ended_without_a_frame_was_shown_to_its_end() -> None:
    session = resumed(first_number=40, first_segment=2, first_frame=5)
    speak(session, 0.2)
    assert session.machine.ended_without_frames()
    assert session.machine.interrupt(session.now_s) == InterruptedAt(segment=2, next_number=40, audio_us=200_000)


def test_sound_before_the_first_frame_that_is_wanted_is_not_kept() -> None:
    """A resumed session may send a long segment from its start; what no frame reads any more must not fill the memory."""
    session = resumed(first_number=40, first_segment=2, first_frame=10_000_000)
    for _ in range(50):
        speak(session, 10.0, end=False)
    [segment] = session.machine.segments
    kept, _ = segment.sound.frames_from(0, 20_000_000)
    assert len(kept) <= 4 * 16_000 * 12
    assert segment.sound.received == 500 * 16_000


def test_far_behind_only_the_frame_that_moves_the_clock_leaves_at_once() -> None:
    session = player(delay_s=0.5)
    speak(session, 0.4)
    session.run(2.0)
    times = [at_s for at_s, frame in session.sent if frame.segment]
    assert times[0] == pytest.approx(START_S + 0.5)
    assert np.diff(times).min() >= 0.04 - 1e-6


def test_idle_frames_go_on_from_the_last_one_sent_when_new_files_came_before_an_interrupt() -> None:
    session = player()
    speak(session, 2.0)
    before = session.run(0.1)
    old = session.machine.shown
    session.machine.replan(old, replace(shown("anna again", session.machine.next_position), timeline=old.timeline))
    session.machine.interrupt(session.now_s)
    first = session.run(0.04)[0]
    assert (first.shown.avatar, first.position) == ("anna again", before[-1].next_position)


def test_sound_in_pieces_of_one_sample_takes_no_more_memory_than_in_one() -> None:
    session = player()
    tracemalloc.start()
    try:
        for _ in range(20_000):
            session.machine.sound(np.zeros(1, np.float32))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10 * 20_000 * 4


def test_a_switch_that_is_taken_back_goes_on_where_the_former_avatar_was() -> None:
    """Also when frames of it were planned at the switch and dropped by an interrupt before any was sent."""
    session = player(avatar=shown("anna", 7), delay_s=10.0)
    former = session.machine.shown
    speak(session, 2.0)
    assert len(session.machine.plan_frames(session.now_s)) > 3
    session.machine.switch_to(shown("ben", 100))
    session.machine.interrupt(session.now_s)
    assert session.machine.next_position == 100
    session.machine.switch_to(former)
    assert session.machine.next_position == 7
    speak(session, 2.0)
    planned = session.machine.plan_frames(session.now_s)
    session.machine.switch_to(shown("ben", 100))
    session.machine.switch_to(former)
    assert session.machine.next_position == planned[-1].next_position
