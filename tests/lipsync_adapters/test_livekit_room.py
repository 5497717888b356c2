"""An avatar in a LiveKit room: LiveKit's own runner, receiver, output and tracks, and a real lip-sync service."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from livekit import rtc
from livekit.agents.voice.avatar import DataStreamAudioOutput

from lipsync_adapters.livekit.room import SWITCH_AVATAR, AvatarRoom, Invitation, Voicing
from lipsync_client.conversation import Server

from ..end_to_end.processes import running_all
from .livekit_rooms import AGENT, AVATAR, Hall, Subscriber, subscribed
from .served import speech

RATE = 16_000


class Talk:
    """An agent, its avatar, and one who hears and sees it."""

    def __init__(self, hall: Hall, output: DataStreamAudioOutput, subscriber: Subscriber, running: asyncio.Task[None]) -> None:
        self.hall, self.output, self.heard, self.running = hall, output, subscriber, running
        self.finished: list[Any] = []
        """Reports to the agent of the ends of its utterances."""
        output.on("playback_finished", self.finished.append)

    async def say(self, sound: np.ndarray, *, rate: int = RATE, end: bool = True) -> None:
        """`sound`: int16 [samples, channels]."""
        sound = sound.reshape(len(sound), -1)
        for first in range(0, len(sound), rate // 10):
            piece = sound[first : first + rate // 10]
            await self.output.capture_frame(rtc.AudioFrame(piece.tobytes(), rate, piece.shape[1], len(piece)))
        if end:
            self.output.flush()

    async def until_heard(self, sound: np.ndarray) -> None:
        await self.heard.until(lambda: spoken(self.heard.sound, sound))

    async def until_finished(self, count: int = 1) -> None:
        await self.heard.until(lambda: len(self.finished) >= count)


@asynccontextmanager
async def talking(
    server: str, avatar: str = "small", *, rate: int = RATE, patience: float = 60, identity: str = AVATAR
) -> AsyncIterator[Talk]:
    hall = Hall(identity)
    agent_room = hall.for_agent()
    await agent_room.connect("", "")
    reached = Server(address=server, api_key=None, tls=None, session_id="", options={"sample_rate": rate}, patience_s=patience)
    room = AvatarRoom(Invitation("ws://nowhere", "token", avatar), reached, Voicing(rate, 2_000_000), hall.for_avatar)
    await room.join()
    running = asyncio.create_task(room.run())
    output = DataStreamAudioOutput(
        agent_room,
        destination_identity=identity,
        sample_rate=rate,
        wait_remote_track=rtc.TrackKind.KIND_VIDEO,
        wait_playback_start=True,
    )
    try:
        async with subscribed(hall, rate) as subscriber:
            yield Talk(hall, output, subscriber, running)
    finally:
        await agent_room.disconnect()
        await asyncio.wait_for(running, 60)
        await room.leave()


def spoken(heard: np.ndarray, sound: np.ndarray) -> bool:
    """Tells if a sound is a whole part of what was heard, bit for bit, but for pauses: LiveKit has one where a frame is late."""
    said, wanted = heard[heard != 0], sound[sound != 0]
    starts = np.flatnonzero(said == wanted[0])
    return any(np.array_equal(said[start : start + len(wanted)], wanted) for start in starts)


async def test_an_agent_is_heard_and_seen(server: str) -> None:
    sound = speech(1.2)
    async with talking(server, "demo") as talk:
        await talk.say(sound)
        await talk.until_finished()
        await talk.until_heard(sound)
        (finished,) = talk.finished
        assert (finished.interrupted, round(finished.playback_position, 2)) == (False, 1.2)
        assert set(talk.heard.sizes) == {(1280, 720)}
        assert len(talk.heard.sizes) >= 25
        assert [method for method, _ in talk.hall.calls] == ["lk.playback_started", "lk.playback_finished"]
        tracks = talk.hall.rooms[AVATAR].local_participant.tracks
        assert [track.kind for track, _ in tracks] == [rtc.TrackKind.KIND_AUDIO, rtc.TrackKind.KIND_VIDEO]
        options = tracks[1][1]
        assert (options.simulcast, options.video_codec, options.video_encoding.max_framerate) == (False, rtc.VideoCodec.H264, 25)


@pytest.mark.parametrize(("rate", "channels"), [(24_000, 1), (48_000, 2)])
async def test_a_voice_of_another_rate_keeps_its_length(server: str, rate: int, channels: int) -> None:
    seconds = 0.6
    tone = (np.sin(np.arange(int(rate * seconds)) / rate * 2 * np.pi * 200) * 9000).astype(np.int16)
    async with talking(server) as talk:
        await talk.say(np.repeat(tone[:, None], channels, 1), rate=rate)
        await talk.until_finished()
        await talk.heard.until(lambda: np.count_nonzero(talk.heard.sound) >= 0.98 * seconds * RATE)
        assert np.count_nonzero(talk.heard.sound) <= 1.02 * seconds * RATE
        assert round(talk.finished[0].playback_position, 2) == seconds


async def test_utterances_follow_each_other(server: str) -> None:
    first, second = speech(0.5), speech(0.7)[::-1]
    async with talking(server) as talk:
        await talk.say(first)
        await talk.say(second)
        await talk.until_finished(2)
        await talk.until_heard(first)
        await talk.until_heard(second)
        assert [(event.interrupted, round(event.playback_position, 2)) for event in talk.finished] == [(False, 0.5), (False, 0.7)]


async def test_the_end_is_told_once_it_was_heard(server: str) -> None:
    """And not when the last frame has gone into a queue."""
    async with talking(server) as talk:
        times: list[float] = []
        for event in ("playback_started", "playback_finished"):
            talk.output.on(event, lambda _: times.append(time.monotonic()))
        await talk.say(speech(1))
        await talk.until_finished()
        started, finished = times
        assert finished - started >= 1


async def test_a_clear_ends_the_utterance_and_the_next_one_follows(server: str) -> None:
    """The agent is interrupted: the rest is never heard, and the agent is told how far it came."""
    long, after = speech(4), speech(0.5)[::-1]
    async with talking(server) as talk:
        await talk.say(long, end=False)
        await talk.heard.until(lambda: np.count_nonzero(talk.heard.sound) > 0.4 * RATE)
        talk.output.clear_buffer()
        talk.output.clear_buffer()  # the agent's own stack does so
        talk.output.flush()
        await talk.say(after)
        await talk.until_finished(2)
        cut, whole = talk.finished
        assert cut.interrupted
        assert 0.4 <= cut.playback_position < 3
        # On a busy machine sound that was on its way comes after the clear, and counts with the next utterance.
        assert (whole.interrupted, 0.5 <= round(whole.playback_position, 2) < 0.7) == (False, True)
        await talk.until_heard(after)
        await talk.until_heard(long[: int(0.4 * RATE)])
        assert not spoken(talk.heard.sound, long[: int((cut.playback_position + 0.2) * RATE)])
        assert [method for method, _ in talk.hall.calls].count("lk.clear_buffer") == 1


async def test_a_clear_is_for_one_room(server: str) -> None:
    """Agents of two rooms have the same identity."""
    sound = speech(1.5)
    async with talking(server) as first, talking(server, identity="other") as second:
        await first.say(sound)
        await second.say(sound)
        await first.heard.until(lambda: np.count_nonzero(first.heard.sound) > 0.2 * RATE)
        first.output.clear_buffer()
        await first.until_finished()
        await second.until_finished()
        assert (first.finished[0].interrupted, second.finished[0].interrupted) == (True, False)
        await second.until_heard(sound)


async def test_a_clear_while_nobody_speaks_does_nothing(server: str) -> None:
    sound = speech(0.5)
    async with talking(server) as talk:
        await talk.heard.until(lambda: talk.heard.sizes)
        avatar = talk.hall.rooms[AGENT].local_participant
        for _ in range(2):
            assert await avatar.perform_rpc(destination_identity=AVATAR, method="lk.clear_buffer", payload="") == "ok"
        await talk.say(sound)
        await talk.until_finished()
        await talk.until_heard(sound)
        assert [event.interrupted for event in talk.finished] == [False]


async def test_a_lost_end_of_a_stream_ends_with_the_next_one(server: str) -> None:
    first, second = speech(0.6), speech(0.5)[::-1]
    async with talking(server) as talk:
        await talk.heard.until(lambda: talk.heard.sizes)
        agent = talk.hall.rooms[AGENT].local_participant
        for sound in (first, second):
            stream = await agent.stream_bytes(
                topic="lk.audio_stream",
                destination_identities=[AVATAR],
                attributes={"sample_rate": str(RATE), "num_channels": "1"},
            )
            await stream.write(sound.tobytes())
        await stream.aclose()
        await talk.heard.until(lambda: [method for method, _ in talk.hall.calls].count("lk.playback_finished") == 2)
        await talk.until_heard(first)
        await talk.until_heard(second)


async def test_the_avatar_leaves_with_the_agent(server: str) -> None:
    async with talking(server) as talk:
        await talk.say(speech(3))
        await talk.heard.until(lambda: talk.heard.sizes)
        await talk.hall.rooms[AGENT].disconnect()
        await asyncio.wait_for(asyncio.shield(talk.running), 60)


async def test_the_agent_chooses_another_avatar_within_a_sentence(server: str) -> None:
    sound = speech(3)
    async with talking(server, "demo") as talk:
        await talk.say(sound)
        await talk.heard.until(lambda: len(talk.heard.sizes) > 10)
        agent = talk.hall.rooms[AGENT].local_participant
        answer = await agent.perform_rpc(destination_identity=AVATAR, method=SWITCH_AVATAR, payload='{"avatar": "small"}')
        assert json.loads(answer) == {"avatar": "small"}
        await talk.until_finished()
        await talk.until_heard(sound)
        assert talk.heard.sizes[0] == (1280, 720) != talk.heard.sizes[-1]


@pytest.mark.parametrize(
    ("payload", "told"), [('{"avatar": "nobody"}', "NOT_FOUND"), ("{}", "expected"), ("nonsense", "expected")]
)
async def test_an_avatar_that_cannot_be_shown_is_refused(server: str, payload: str, told: str) -> None:
    sound = speech(0.5)
    async with talking(server) as talk:
        await talk.heard.until(lambda: talk.heard.sizes)
        agent = talk.hall.rooms[AGENT].local_participant
        with pytest.raises(rtc.RpcError, match=told):
            await agent.perform_rpc(destination_identity=AVATAR, method=SWITCH_AVATAR, payload=payload)
        await talk.say(sound)
        await talk.until_finished()
        assert len(set(talk.heard.sizes)) == 1


async def test_a_service_that_dies_in_mid_sentence_costs_no_word(place: tuple[str, str], tmp_path: Path) -> None:
    sound = speech(4)
    with running_all(*place, log=tmp_path / "first") as (compositing, *_):
        async with talking(compositing.address, patience=30) as talk:
            await talk.say(sound)
            await talk.heard.until(lambda: np.count_nonzero(talk.heard.sound) > 0.5 * RATE)
            compositing.signal(signal.SIGKILL)
            await asyncio.to_thread(compositing.process.wait)
            with running_all(*place, log=tmp_path / "second"):
                await talk.until_finished()
                assert [(event.interrupted, round(event.playback_position, 2)) for event in talk.finished] == [(False, 4)]
                await talk.until_heard(sound)


async def test_speech_that_comes_while_the_avatar_is_given_up_follows_what_was_said(
    place: tuple[str, str], tmp_path: Path
) -> None:
    sound = speech(5)
    with running_all(*place, log=tmp_path / "first") as (compositing, *_):
        async with talking(compositing.address, patience=1) as talk:
            await talk.say(sound[: 2 * RATE], end=False)
            await talk.heard.until(lambda: np.count_nonzero(talk.heard.sound) > 0.5 * RATE)
            compositing.signal(signal.SIGKILL)
            for first in range(2 * RATE, len(sound), RATE // 10):
                await talk.say(sound[first : first + RATE // 10], end=False)
                await asyncio.sleep(0.1)
            talk.output.flush()
            await talk.until_finished()
            await talk.until_heard(sound)


async def test_pictures_go_on_after_a_service_was_held_up(place: tuple[str, str], tmp_path: Path) -> None:
    """It moves its clock then."""
    with running_all(*place, log=tmp_path / "log") as (compositing, *_):
        async with talking(compositing.address) as talk:
            await talk.heard.until(lambda: len(talk.heard.sizes) > 10)
            compositing.signal(signal.SIGSTOP)
            await asyncio.sleep(1.5)
            compositing.signal(signal.SIGCONT)
            before = len(talk.heard.sizes)
            await talk.heard.until(lambda: len(talk.heard.sizes) > before + 30)


async def test_a_service_that_stays_dead_leaves_the_voice(place: tuple[str, str], tmp_path: Path) -> None:
    sound, later, back = speech(4), speech(1)[::-1], speech(1)
    with running_all(*place, log=tmp_path / "first") as (compositing, *_):
        async with talking(compositing.address, patience=1) as talk:
            await talk.say(sound)
            await talk.heard.until(lambda: np.count_nonzero(talk.heard.sound) > 0.5 * RATE)
            compositing.signal(signal.SIGKILL)
            await talk.until_finished()
            await talk.until_heard(sound)
            await talk.say(later)
            await talk.until_finished(2)
            await talk.until_heard(later)
            await asyncio.to_thread(compositing.process.wait)
            with running_all(*place, log=tmp_path / "second"):
                before = len(talk.heard.sizes)
                await talk.heard.until(lambda: len(talk.heard.sizes) > before + 5)
                await talk.say(back)
                await talk.until_finished(3)
                assert len(talk.heard.sizes) > before + 30
            assert [event.interrupted for event in talk.finished] == [False] * 3
