"""A machine that closes, leaves or resumes."""

from __future__ import annotations

import pytest

from compositing_service.sessions.tables import Message
from service_kit.errors import InvalidRequest

from .player import START_S, player, resumed, speak, speech


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
