"""Plays a machine in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from compositing_service.sessions.frames import Finished, MakeIdle, PlannedFrame, SendFrames, Shown, WaitForChange, WaitUntil
from compositing_service.sessions.machine import Machine
from compositing_service.sessions.plan import Plan

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


def resumed(**more: int) -> Player:
    return player(replace(PLAN, is_resumed=True, **more))
