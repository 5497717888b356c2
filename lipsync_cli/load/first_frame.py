"""Times the first frame of one session that has no clock: from writing the last sample that it needs to its picture."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from lipsync_cli.load.arrivals import Spread
from lipsync_cli.load.processor import Used, measured
from lipsync_cli.load.running import Target
from lipsync_cli.load.session import now_ms, sleep_until
from lipsync_cli.load.speaking import FIRST_FRAME_SAMPLES, Sound
from lipsync_client import AsyncSession, Frame, SegmentEnded
from shared_proto.timing import SAMPLE_RATE_HZ

# Sound comes in pieces of 20 ms at its own pace, as from a microphone.
_PIECE_SAMPLES = SAMPLE_RATE_HZ // 50


@dataclass(frozen=True)
class FirstFrames:
    """First frames of a session without a clock, in ms."""

    avatar: str
    first_frames_ms: Sequence[float] = field(repr=False)
    first_frames: Spread | None
    used: Used


async def time_first_frames(target: Target, utterances: Sequence[Sound], *, seconds: float) -> FirstFrames:
    """Speaks the beginnings of the utterances, each as a segment of its own, for so long. Raises LipsyncError."""
    avatar = target.avatars[0]
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + seconds
    times_ms: list[float] = []
    with measured(target.server_pids) as used:
        async with (
            target.client() as client,
            client.session(avatar, pacing="fast", output=target.output) as session,
        ):
            for utterance in itertools.cycle(utterances):
                times_ms.append(await _first_frame_ms(session, utterance[:FIRST_FRAME_SAMPLES]))
                if loop.time() >= ends_s:
                    break
    return FirstFrames(avatar, times_ms, Spread.of(times_ms), used)


async def _first_frame_ms(session: AsyncSession, sound: Sound) -> float:
    """Pushes the sound that a first frame needs, waits for the frame, and for the end of the segment."""
    start_s = asyncio.get_running_loop().time()
    for first in range(0, sound.size, _PIECE_SAMPLES):
        await sleep_until(start_s + first / SAMPLE_RATE_HZ)
        pushed_ms = now_ms()
        await session.push(sound[first : first + _PIECE_SAMPLES])
    while not isinstance(await anext(session), Frame):
        pass
    first_ms = now_ms() - pushed_ms
    await session.end_segment()
    while not isinstance(await anext(session), SegmentEnded):
        pass
    return first_ms
