"""The order and the clock of a session's events and frames, over the wire."""

from __future__ import annotations

import time

from shared_proto import compositing_pb2 as pb

from .conftest import CALL_S, Duo
from .talking import FAST, Talk, config, noise


def test_started_comes_first_and_says_what_holds(duo: Duo) -> None:
    metadata = (("x-session-id", "my-session"),)
    with Talk(duo.pictures, config(pacing=FAST, look_ahead_frames=7), metadata=metadata) as talk:
        talk.end()
    [started] = talk.of("started")
    assert started.session_id == "my-session"
    assert (started.fps, started.look_ahead_ms, started.output_format) == (25, 280, pb.FORMAT_JPEG)
    assert started.width > 0 < started.height
    assert started.max_buffered_ms >= 3000
    assert started.server_version


def test_a_session_without_an_id_gets_one(duo: Duo) -> None:
    with Talk(duo.pictures, config(pacing=FAST)) as talk:
        talk.end()
    assert talk.of("started")[0].session_id


def test_in_real_time_frames_leave_one_for_each_40_ms(duo: Duo) -> None:
    opened_s = time.monotonic()
    with Talk(duo.pictures, config()) as talk:
        talk.wait(lambda: len(talk.frames) >= 10)
        talk.say(noise(1.0))
        talk.wait(lambda: talk.of("segment_ended") and len(talk.frames) >= 60)
        talk.end()
    assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))
    assert [frame.pts_us for frame in talk.frames] == [40_000 * frame.number for frame in talk.frames]
    # Late they may come, on a busy machine; early never.
    assert all(came_s - opened_s > 0.04 * number - 0.01 for number, came_s in enumerate(talk.times))
    spoken = [frame.number for frame in talk.speech]
    assert spoken == list(range(spoken[0], spoken[0] + 25))
    following = {frame.number + 1: frame.next_position for frame in talk.frames}
    assert all(frame.position == following[frame.number] for frame in talk.frames[1:])


def test_silence_inside_a_segment_is_no_speech(duo: Duo) -> None:
    with Talk(duo.pictures, config(pacing=FAST)) as talk:
        talk.say(noise(0.4) + bytes(4 * 16_000 * 2) + noise(0.4))
        talk.end()
    flags = [frame.speech for frame in talk.frames]
    assert flags[0]
    assert flags[-1]
    silent = [k for k, speaks in enumerate(flags) if not speaks]
    assert silent
    # Zeros from 395 ms before a frame to 452.5 ms after its start.
    assert all(0.04 * k - 0.385 >= 0.4 and 0.04 * k + 0.4425 <= 2.4 for k in silent)
    assert set(silent) >= {k for k in range(70) if 0.04 * k - 0.395 >= 0.4 and 0.04 * k + 0.4525 <= 2.4}


def test_with_stored_pictures_silent_and_idle_frames_are_as_stored(duo: Duo) -> None:
    stored = duo.pictures.InferBatchComposite(
        pb.CompositeBatchRequest(model_id="small", stored_features=False, idle=True, batch_size=5), timeout=CALL_S
    )
    assert stored.composited_frames
    with Talk(duo.pictures, config(idle=pb.IDLE_STORED)) as talk:
        talk.wait(lambda: len(talk.frames) >= 4)
        talk.say(bytes(4 * 16_000))
        talk.end()
    by_index: dict[int, set[bytes]] = {}
    for frame in talk.frames:
        assert not frame.speech
        by_index.setdefault(frame.frame_index, set()).add(frame.picture)
    assert all(len(pictures) == 1 for pictures in by_index.values())


def test_without_idle_frames_nothing_comes_and_numbers_grow(duo: Duo) -> None:
    with Talk(duo.pictures, config(idle=pb.IDLE_NONE)) as talk:
        talk.wait(lambda: talk.of("started"))
        time.sleep(0.5)
        assert not talk.frames
        talk.say(noise(0.2))
        talk.end()
    assert talk.frames[0].number >= 12
    assert [frame.position for frame in talk.frames] == list(range(5))
