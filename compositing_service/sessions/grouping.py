"""Chooses which planned frames of a session are made together, and when, and has them made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from compositing_service.overload import Overload
from compositing_service.sessions.live_avatar import LiveAvatar
from compositing_service.sessions.machine import Machine
from compositing_service.sessions.making import FrameMaking, Planned
from service_kit.clock import Clock
from shared_proto import compositing_pb2 as pb

# Frames of one call of the network: several cost less than each alone, and more would come later.
_GROUP = 4
_GROUP_OVERLOADED = 8
_GROUP_UNPACED = 16
# A group waits to become full until its first frame is due within this time.
_HURRY_S = 0.12


@dataclass(eq=False, slots=True)
class Grouping:
    """Makes the frames of one session, one group after the other."""

    machine: Machine[LiveAvatar]
    making: FrameMaking
    overload: Overload
    clock: Clock
    planned: asyncio.Event = field(default_factory=asyncio.Event)
    """Set it when frames were planned."""
    _group: asyncio.Task[None] | None = None
    """Frames that are being made."""

    async def run(self) -> None:
        """Makes frames without end. Raises ServiceError when that fails."""
        while True:
            self.planned.clear()
            group, wait_s = self._next()
            if wait_s is not None:
                await self.clock.wait(self.planned, wait_s)
            elif group:
                await self._make(group)
            else:
                await self.planned.wait()

    def drop(self) -> None:
        """Gives up the frames that are being made."""
        if self._group:
            self._group.cancel()

    async def _make(self, group: list[Planned]) -> None:
        self._group = asyncio.create_task(self.making.make(group, due_in_ms=self._due_in_ms(group[0])))
        try:
            await self._group
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if not self._group.cancelled() or (own and own.cancelling()):  # else it was dropped
                raise
        self._group = None

    def _next(self) -> tuple[list[Planned], float | None]:
        """Returns the frames to make together, and for how long to wait for more of them first; None: not at all."""
        todo = [frame for frame in self.machine.planned if frame.picture is None]
        most = self._most()
        group: list[Planned] = []
        for frame in todo[:most]:
            if group and (frame.segment is not group[0].segment or frame.shown is not group[0].shown):
                return group, None
            group.append(frame)
        if group and len(group) < most and not group[-1].is_last and self.machine.slots:
            spare_s = self.machine.slots.time_of(group[0].number) - self.clock.now() - _HURRY_S
            if spare_s > 0:
                return group, spare_s
        return group, None

    def _most(self) -> int:
        """Returns the most frames to make together. Larger groups have room ahead of the clock."""
        plan = self.machine.plan
        if not plan.in_real_time:
            return _GROUP_UNPACED
        most = _GROUP_OVERLOADED if self.overload.level >= pb.OVERLOAD_LARGER_GROUPS else _GROUP
        self.machine.frames_ahead = plan.frames_ahead + most - _GROUP
        return most

    def _due_in_ms(self, frame: Planned) -> int:
        """Returns the milliseconds until a frame is due, below 0 when that is past; 0: never."""
        slots = self.machine.slots
        if slots is None:
            return 1 if self.machine.plan.in_real_time else 0
        return round((slots.time_of(frame.number) - self.clock.now()) * 1000) or 1
