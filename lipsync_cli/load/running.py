"""Runs many live sessions at once, and sums them up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lipsync_cli.load.arrivals import Arrivals, Spread, Times
from lipsync_cli.load.processor import OwnDelay, Used, measured
from lipsync_cli.load.ramp import Ramp
from lipsync_cli.load.session import Outcome, Talking, Trace, now_ms, run_session
from lipsync_client import AsyncClient, SessionOutput, TlsOptions
from service_kit.collector import spare_what_stays

# Each session starts so long after the one before. It is no multiple of a frame, so their clocks tick at different moments.
START_APART_S = 0.073
_TRIES = 2
# Services count a session for two seconds after its end: a ramp's next run begins when they have forgotten those of the last.
_FORGOTTEN_S = 3.0
# The frames of so long make one point of a curve.
_BIN_S = 0.5
# Sessions on one connection: gRPC works on a connection with one thread, and a balancer sends all of its calls to one server.
_SESSIONS_A_CONNECTION = 8


@dataclass(frozen=True)
class Target:
    """A deployment, and the avatars that sessions show in turn."""

    server: str
    avatars: Sequence[str]
    tls: TlsOptions | None = None
    server_pids: Sequence[int] = ()
    """Its processes on this machine, whose processor time is measured."""
    api_key: str | None = field(default=None, repr=False)
    output: SessionOutput = "jpeg"

    def client(self) -> AsyncClient:
        """Makes a client of it, on the running event loop."""
        return AsyncClient(self.server, tls=self.tls, api_key=self.api_key)


@dataclass(frozen=True)
class LoadRun:
    """The result of some seconds of some sessions."""

    outcomes: Sequence[Outcome]
    seconds: float
    """From the start of the first session to the end."""
    session_seconds: float
    """The sum over the sessions."""
    behind: Spread | None
    """The spread over all frames of all sessions."""
    first_frames: Spread | None
    used: Used
    own_delay: Spread | None
    timeline: Sequence[tuple[float, Spread]] = field(repr=False)
    """For each half second from the start on: its middle in seconds, and the frames that came in it."""
    behind_ms: Times = field(repr=False)
    first_frames_ms: Sequence[float] = field(repr=False)

    @property
    def sessions(self) -> int:
        """Number of sessions that were asked for."""
        return len(self.outcomes)

    @property
    def kept(self) -> int:
        """Number of sessions that were kept in real time."""
        return sum(outcome.kept for outcome in self.outcomes)

    @property
    def frames(self) -> int:
        """Number of frames of all sessions."""
        return sum(outcome.frames for outcome in self.outcomes)

    @property
    def megabits_a_second(self) -> float:
        """The rate of the pictures of one session."""
        return sum(outcome.nbytes for outcome in self.outcomes) * 8 / 1e6 / self.session_seconds


@dataclass(frozen=True)
class RampRun:
    """The runs of a ramp, in the order in which they were made."""

    runs: Sequence[LoadRun]
    fits: int
    """The largest number of sessions all of which were kept in real time; 0: not even one was."""


async def load(target: Target, talking: Talking, *, count: int, seconds: float) -> LoadRun:
    """Loads the avatars, and runs `count` sessions. Raises LipsyncError when an avatar cannot be loaded."""
    await _load_avatars(target)
    return await _run(target, talking, count=count, seconds=seconds)


async def find_fitting(
    target: Target, talking: Talking, *, first: int, most: int, seconds: float, show: Callable[[int], None]
) -> RampRun:
    """Finds how many sessions fit, trying `first` first and `most` at most. Raises as `load` does.

    A number of sessions does not fit if it did not twice in a row. `show` hears of each run before it begins.
    """
    await _load_avatars(target)
    ramp, runs = Ramp(first, most), list[LoadRun]()
    while not ramp.is_over:
        for _ in range(_TRIES):
            if runs:
                await asyncio.sleep(_FORGOTTEN_S)
            show(ramp.trial)
            runs.append(await _run(target, talking, count=ramp.trial, seconds=seconds))
            if runs[-1].kept == ramp.trial:
                break
        ramp.note(runs[-1].kept == ramp.trial)
    return RampRun(runs, ramp.fits)


async def _load_avatars(target: Target) -> None:
    async with target.client() as client:
        for avatar in target.avatars:
            await client.load(avatar)


async def _run(target: Target, talking: Talking, *, count: int, seconds: float) -> LoadRun:
    """Starts the sessions one after the other, and lets all of them run for `seconds` more, or until none is left."""
    traces = [Trace(target.avatars[place % len(target.avatars)]) for place in range(count)]
    ended = asyncio.Event()
    clients = [target.client() for _ in range(0, count, _SESSIONS_A_CONNECTION)]
    starts_ms: list[float] = []
    spare_what_stays()  # else the tester's own pauses look like the server's
    try:
        with measured(target.server_pids) as used:
            async with OwnDelay() as own_delay, asyncio.TaskGroup() as tasks:
                running = []
                for place, trace in enumerate(traces):
                    starts_ms.append(now_ms())
                    client = clients[place // _SESSIONS_A_CONNECTION]
                    session = run_session(client, talking, place, trace, ended, output=target.output)
                    running.append(tasks.create_task(session))
                    await asyncio.sleep(START_APART_S)
                await asyncio.wait(running, timeout=seconds)
                end_ms = now_ms()
                ended.set()
                delays = own_delay.spread()
    finally:
        for client in clients:
            await client.close()
    return _summed(traces, starts_ms, end_ms, used, delays)


def _summed(traces: Sequence[Trace], starts_ms: Sequence[float], end_ms: float, used: Used, delays: Spread | None) -> LoadRun:
    sessions = [Arrivals.of(trace.frames) for trace in traces]
    behind_ms = np.concatenate([each.behind_ms for each in sessions])
    arrived_s = (np.concatenate([each.arrived_ms for each in sessions]) - starts_ms[0]) / 1000
    first_frames_ms = [each for trace in traces for each in trace.first_frames_ms]
    return LoadRun(
        outcomes=[trace.outcome(end_ms) for trace in traces],
        seconds=(end_ms - starts_ms[0]) / 1000,
        session_seconds=sum(end_ms - start_ms for start_ms in starts_ms) / 1000,
        behind=Spread.of(behind_ms),
        first_frames=Spread.of(first_frames_ms),
        used=used,
        own_delay=delays,
        timeline=timeline(arrived_s, behind_ms),
        behind_ms=behind_ms,
        first_frames_ms=first_frames_ms,
    )


def timeline(arrived_s: Times, behind_ms: Times) -> list[tuple[float, Spread]]:
    """Sums up the frames of each bin of time that has any."""
    bins = (arrived_s // _BIN_S).astype(int)
    found = [(place, Spread.of(behind_ms[bins == place])) for place in np.unique(bins)]
    return [((float(place) + 0.5) * _BIN_S, spread) for place, spread in found if spread]
