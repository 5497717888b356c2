"""Live sessions of lipsync_client against real services: whatever is lost, the frames are those of an unbroken session."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lipsync_client import (
    AsyncClient,
    AvatarSwitched,
    Client,
    Frame,
    GoingAway,
    Interrupted,
    LipsyncError,
    Resumed,
    SegmentEnded,
    Session,
    SessionEvent,
    Started,
    SwitchFailed,
)

from .conftest import Duo
from .cutting_proxy import CuttingProxy
from .processes import Service, running
from .talking import at_once

SECONDS = 3
Code = grpc.StatusCode
Spoken = Callable[[Session], None]
Listener = Callable[[SessionEvent], None]


def voice(seconds: float = SECONDS, *, rate: int = 16_000, seed: int = 1) -> np.ndarray:
    """Int16 noise of changing loudness."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(int(seconds * rate)) * 4000
    samples[: rate // 10] = 0
    return samples.clip(-32768, 32767).astype(np.int16)


def say(session: Session, sound: np.ndarray, *, piece: int = 2_000) -> None:
    for first in range(0, len(sound), piece):
        session.push(sound[first : first + piece])


def talked(
    target: str, said: Spoken, *, avatar: str = "small", heard: Listener | None = None, **options: Any
) -> list[SessionEvent]:
    """The events of a session in which one thread says something, and closes. `heard` sees each event first."""
    with Client(target) as client, client.session(avatar, **options) as session:

        def speak() -> None:
            said(session)
            session.close()

        speaker = threading.Thread(target=speak)
        speaker.start()
        try:
            events = []
            for event in session:
                events.append(event)
                if heard:
                    heard(event)
        finally:
            session.__exit__(None, None, None)
            speaker.join()
    return events


def of(events: list[SessionEvent], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def assert_whole(events: list[SessionEvent], *sounds: np.ndarray) -> None:
    """Every frame of every sound, once, in order, with its own sound."""
    frames = of(events, Frame)
    assert [frame.number for frame in frames] == list(range(len(frames)))
    for number, sound in enumerate(sounds):
        speech = [frame for frame in frames if frame.segment == number and frame.audio_us >= 0]
        assert [frame.audio_us for frame in speech] == [40_000 * k for k in range(len(speech))]
        np.testing.assert_array_equal(np.concatenate([frame.audio for frame in speech]), sound)
    assert [ended.segment for ended in of(events, SegmentEnded)] == list(range(len(sounds)))


def pictures(events: list[SessionEvent]) -> list[bytes]:
    return [frame.picture for frame in of(events, Frame)]


@pytest.mark.parametrize(("rate", "dtype"), [(16_000, np.int16), (16_000, np.float32), (48_000, np.int16)])
def test_frames_are_those_of_batches(duo: Duo, rate: int, dtype: type) -> None:
    sound = voice(rate=rate)
    pushed = sound if dtype is np.int16 else (sound / 32768).astype(np.float32)
    events = talked(duo.compositing.address, lambda session: say(session, pushed), pacing="fast", sample_rate=rate)
    assert isinstance(events[0], Started)
    assert_whole(events, pushed)
    with Client(duo.compositing.address) as client:
        whole = client.composite("small", pushed, batch_size=50, sample_rate=rate).frames
    assert pictures(events)[:50] == whole


def test_asyncio_gives_the_same(duo: Duo) -> None:
    async def session() -> list[SessionEvent]:
        async with AsyncClient(duo.compositing.address) as client, client.session("small", pacing="fast") as session:

            async def speak() -> None:
                for first in range(0, len(sound), 2_000):
                    await session.push(sound[first : first + 2_000])
                await session.close()

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(speak())
                return [event async for event in session]

    sound = voice()
    events = asyncio.run(session())
    assert_whole(events, sound)
    assert pictures(events) == pictures(talked(duo.compositing.address, lambda each: say(each, sound), pacing="fast"))


def test_an_awaited_event_that_is_given_up_loses_nothing(duo: Duo) -> None:
    """gRPC ends a call whose reader is cancelled; the session does not."""

    async def session() -> list[SessionEvent]:
        async with AsyncClient(duo.compositing.address) as client, client.session("small", pacing="fast") as session:
            await session.push(sound[:12_000])
            events = [await anext(session) for _ in range(5)]
            while True:
                try:
                    async with asyncio.timeout(0.5):
                        events.append(await anext(session))
                except TimeoutError:
                    break
            await session.push(sound[12_000:])
            await session.close()
            return events + [event async for event in session]

    sound = voice(2)
    events = asyncio.run(session())
    assert not of(events, Resumed)
    assert_whole(events, sound)


def test_idle_frames_have_no_sound_and_an_interrupt_drops_the_rest(duo: Duo) -> None:
    spoken, heard = threading.Event(), threading.Event()
    first, second = voice(8), voice(0.5, seed=2)

    def said(session: Session) -> None:
        speaker = threading.Thread(target=lambda: session.push(first))
        speaker.start()
        assert spoken.wait(60)
        session.interrupt()
        speaker.join()  # the rest of it is dropped, so the push that waits returns
        assert heard.wait(60)
        session.push(second)

    def listen(event: SessionEvent) -> None:
        if isinstance(event, Frame) and event.audio_us > 400_000:
            spoken.set()
        if isinstance(event, Interrupted):
            heard.set()

    events = talked(duo.compositing.address, said, heard=listen)
    (answer,) = of(events, Interrupted)
    place = events.index(answer)
    shown = [frame for frame in of(events[:place], Frame) if frame.audio_us >= 0]
    assert (answer.segment, answer.audio_us) == (0, 40_000 * len(shown))
    later = of(events[place:], Frame)
    assert later[0].number == answer.next_number
    assert {frame.segment for frame in later if frame.audio is not None} == {1}
    np.testing.assert_array_equal(np.concatenate([frame.audio for frame in later if frame.audio is not None]), second)
    assert [ended.segment for ended in of(events, SegmentEnded)] == [1]


def test_a_switch_is_answered(duo: Duo) -> None:
    answered = threading.Semaphore(0)

    def said(session: Session) -> None:
        session.push(voice(2))
        for avatar in ("nobody", "other"):
            session.switch(avatar, start_frame=2)
            assert answered.acquire(timeout=60)

    def listen(event: SessionEvent) -> None:
        if isinstance(event, AvatarSwitched | SwitchFailed):
            answered.release()

    events = talked(duo.compositing.address, said, heard=listen)
    (failed,) = of(events, SwitchFailed)
    assert (failed.avatar, failed.code) == ("nobody", Code.NOT_FOUND)
    (switched,) = of(events, AvatarSwitched)
    assert switched.avatar == "other"
    assert next(frame for frame in of(events, Frame) if frame.number == switched.number).position == 2
    assert_whole(events, voice(2))


cut = st.tuples(st.lists(st.integers(1, 400_000), min_size=1, max_size=4), st.booleans(), st.sampled_from([16_000, 44_100]))


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(cut, min_size=4, max_size=4))
def test_a_connection_that_is_cut_at_any_byte(duo: Duo, cases: list[tuple[list[int], bool, int]]) -> None:
    at_once(partial(survives_cuts, duo), cases)


def survives_cuts(duo: Duo, cuts: list[int], realtime: bool, rate: int) -> None:
    sounds = [voice(1.2, rate=rate), voice(0.9, rate=rate, seed=2)]

    def said(session: Session) -> None:
        for sound in sounds:
            say(session, sound)
            session.end_segment()

    options = {"sample_rate": rate, "pacing": "realtime" if realtime else "fast"}
    with CuttingProxy(duo.compositing.address, iter(cuts)) as proxy:
        events = talked(proxy.address, said, **options)
    assert_whole(events, *sounds)
    if not realtime:  # else idle frames come between, as the machine has time
        assert pictures(events) == pictures(talked(duo.compositing.address, said, **options))


@pytest.fixture
def replicas(models_root: Path, duo: Duo, tmp_path: Path) -> Iterator[list[Service]]:
    """Two compositing services before one inference service."""
    common = f"models_root={models_root}", f"inference_server.url={duo.inference.address}"
    with (
        running("compositing", *common, log=tmp_path / "first") as first,
        running("compositing", *common, log=tmp_path / "second") as second,
    ):
        yield [first, second]


def where(services: list[Service]) -> Service:
    """The one that has the session."""
    (one,) = [service for service in services if service.process.poll() is None and service.metric("lipsync_sessions")]
    return one


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_replica_that_dies_or_drains_is_left_for_the_other(duo: Duo, replicas: list[Service], number: signal.Signals) -> None:
    sounds = [voice(2), voice(2, seed=2), voice(2, seed=3)]

    def said(session: Session) -> None:
        for sound in sounds:
            say(session, sound)
            session.end_segment()

    def listen(event: SessionEvent) -> None:
        if isinstance(event, Frame) and (event.segment, event.audio_us) == (1, 400_000):
            where(replicas).signal(number)

    target = "ipv4:" + ",".join(service.address for service in replicas)
    events = talked(target, said, heard=listen)
    assert_whole(events, *sounds)
    assert len(of(events, GoingAway)) == (number == signal.SIGTERM)
    assert of(events, Resumed)
    with Client(duo.compositing.address) as client:
        for frame in [frame for frame in of(events, Frame) if frame.audio_us >= 0][::3]:
            place = {"lead_in_frames": frame.audio_us // 40_000, "start_frame": frame.position}
            assert client.composite("small", sounds[frame.segment], batch_size=1, **place).frames == [frame.picture]


def test_an_operator_sees_sessions_and_ends_them(duo: Duo) -> None:
    with Client(duo.compositing.address) as client:
        own = client.with_metadata(session_id="talk-4711", request_id="order")
        with own.session("small") as session:
            for event in session:
                if isinstance(event, Frame) and event.number == 3:
                    break
            listed = {each.id: each for each in client.list_sessions()}
            assert listed["talk-4711"].avatar == "small"
            assert listed["talk-4711"].frames >= 3
            assert not listed["talk-4711"].speaking
            assert client.end_session("talk-4711") == 1
            with pytest.raises(LipsyncError) as caught:
                for _ in session:
                    pass
            assert (caught.value.code, caught.value.request_id) == (Code.CANCELLED, "order")
            with pytest.raises(LipsyncError):
                session.push(voice())
        assert client.end_session("talk-4711") == 0


@pytest.mark.parametrize(
    ("avatar", "options", "code"),
    [("nobody", {}, Code.NOT_FOUND), ("small", {"look_ahead_frames": 5}, Code.INVALID_ARGUMENT)],
)
def test_what_the_server_refuses_is_raised(duo: Duo, avatar: str, options: dict[str, Any], code: grpc.StatusCode) -> None:
    with Client(duo.compositing.address) as client, client.session(avatar, **options) as session:
        with pytest.raises(LipsyncError) as caught:
            next(session)
        assert caught.value.code is code
