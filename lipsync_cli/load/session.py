"""One live session of the load tester: speaks at the pace of a voice, and notes when each frame comes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lipsync_cli.load.arrivals import IDLE, Arrivals, Spread
from lipsync_cli.load.speaking import Sound, pieces
from lipsync_client import AsyncClient, AsyncSession, Frame, LipsyncError, Resumed, SessionEvent, SessionOutput, Started, Status
from shared_proto.timing import SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Talking:
    """The sound of a session. Without utterances it rests."""

    utterances: Sequence[Sound]
    ahead_s: float
    """Seconds by which the sound is pushed ahead of its time."""
    pause_s: float
    """From the end of an utterance to the start of the next."""
    allow_half_rate: bool = False
    """Lets an overloaded server repeat every second mouth."""


@dataclass(eq=False)
class Trace:
    """All that a session's client saw. Times are in ms, by `now_ms`."""

    avatar: str
    frames: list[tuple[int, float, int]] = field(default_factory=list)
    """Number, time of arrival, and segment or IDLE."""
    nbytes: int = 0
    """Bytes of all pictures."""
    first_frames_ms: list[float] = field(default_factory=list)
    """The time for each utterance from pushing the last sample that its first frame needs to that frame."""
    status: Status | None = None
    """The last one; None: the server had nothing to report."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    resumes: int = 0
    error: str = ""
    _pushed_ms: dict[int, float] = field(default_factory=dict)

    def pushes(self, segment: int) -> None:
        """Notes that the last sample that a segment's first frame needs is written now."""
        self._pushed_ms[segment] = now_ms()

    def take(self, event: SessionEvent) -> None:
        """Notes an event that comes now."""
        match event:
            case Frame():
                at_ms = now_ms()
                self.nbytes += len(event.picture)
                self.frames.append((event.number, at_ms, IDLE if event.audio_us < 0 else event.segment))
                if event.audio_us == 0 and (pushed_ms := self._pushed_ms.pop(event.segment, None)) is not None:
                    self.first_frames_ms.append(at_ms - pushed_ms)
            case Status():
                self.status = event
            case Started():
                self.started.set()
            case Resumed():
                self.resumes += 1

    def outcome(self, until_ms: float) -> Outcome:
        """Judges what had come until then."""
        arrivals, status = Arrivals.of(self.frames), self.status
        return Outcome(
            avatar=self.avatar,
            error=self.error,
            started=self.started.is_set(),
            frames=len(self.frames),
            nbytes=self.nbytes,
            late=arrivals.late(until_ms),
            stalls=arrivals.stalls(),
            resumes=self.resumes,
            drift_ms=arrivals.drift_ms(),
            behind=Spread.of(arrivals.behind_ms),
            first_frames=Spread.of(self.first_frames_ms),
            server_late=status.late_frames if status else 0,
            server_stalls=status.stalls if status else 0,
            clock_resets=status.clock_resets if status else 0,
        )


@dataclass(frozen=True)
class Outcome:
    """A session as its client saw it, and beside it what the server counted."""

    avatar: str
    error: str
    """The error that ended it; empty: none did."""
    started: bool
    frames: int
    nbytes: int
    late: int
    stalls: int
    resumes: int
    drift_ms: float
    behind: Spread | None
    first_frames: Spread | None
    server_late: int
    server_stalls: int
    clock_resets: int

    @property
    def kept(self) -> bool:
        """Tells if it was kept in real time."""
        return bool(self.frames) and not (self.error or self.late or self.stalls or self.resumes or self.clock_resets)


def now_ms() -> float:
    """Reads the tester's monotonic clock."""
    return time.monotonic() * 1000


async def run_session(
    client: AsyncClient, talking: Talking, place: int, trace: Trace, ended: asyncio.Event, *, output: SessionOutput
) -> None:
    """Runs a session until `ended`, or until it fails; `trace.error` then says why."""
    session = client.session(trace.avatar, output=output, resume_timeout=0.0, allow_half_rate=talking.allow_half_rate)
    try:
        async with session, asyncio.TaskGroup() as tasks:
            loops = [tasks.create_task(_listen(session, trace))]
            if talking.utterances:
                loops.append(tasks.create_task(_speak(session, talking, place, trace)))
            await _ended_or_failed(ended, loops)
            for loop in loops:
                loop.cancel()
    except* LipsyncError as errors:
        if not ended.is_set():
            trace.error = str(errors.exceptions[0])


async def _ended_or_failed(ended: asyncio.Event, loops: Sequence[asyncio.Task[None]]) -> None:
    waiting = asyncio.create_task(ended.wait())
    try:
        await asyncio.wait([waiting, *loops], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _listen(session: AsyncSession, trace: Trace) -> None:
    async for event in session:
        trace.take(event)


async def _speak(session: AsyncSession, talking: Talking, place: int, trace: Trace) -> None:
    """Speaks the utterances again and again, the session's own first, each with its pause."""
    count = len(talking.utterances)
    await trace.started.wait()
    start_s = asyncio.get_running_loop().time()
    for segment in itertools.count():
        utterance = talking.utterances[(place + segment) % count]
        for piece in pieces(utterance.size, talking.ahead_s):
            await sleep_until(start_s + piece.at_s)
            if piece.completes_first_frame:
                trace.pushes(segment)
            await session.push(utterance[piece.first : piece.last])
        await session.end_segment()
        start_s += utterance.size / SAMPLE_RATE_HZ + talking.pause_s


async def sleep_until(at_s: float) -> None:
    """Sleeps until the event loop's clock shows this; yields at once if it already does."""
    await asyncio.sleep(max(0.0, at_s - asyncio.get_running_loop().time()))
