"""The avatars of a session: switches that it asks for, and files that were loaded again meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from avatar_kit.errors import AvatarError
from compositing_service.backgrounds.resting import RestingPictures
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.mouth_source import MouthSource
from compositing_service.request import read_model_id
from compositing_service.sessions import events
from compositing_service.sessions.config import SessionConfig
from compositing_service.sessions.live_avatar import LiveAvatar, hold_avatar, make_ready
from compositing_service.sessions.machine import Machine, Shown
from compositing_service.sessions.making import Planned
from service_kit import request_context
from service_kit.errors import Aborted, InvalidRequest, ServiceError, Violation, as_service_errors
from shared_proto import compositing_pb2 as pb


@dataclass(eq=False)
class Switching:
    """Holds the avatars of one session, and changes between them."""

    store: BackgroundStore
    resting: RestingPictures
    source: MouthSource
    config: SessionConfig
    live: LiveAvatar
    """The avatar of the frames that are planned next."""
    note: Callable[[pb.SessionEvent], None]
    """Lets an event leave before the next frame."""
    wake: Callable[[], None]
    machine: Machine[LiveAvatar]
    announced: Shown[LiveAvatar] = field(init=False)
    """The avatar that the client knows."""
    _former: Shown[LiveAvatar] = field(init=False)
    """The avatar before a switch that is not announced yet."""
    _held: list[LiveAvatar] = field(default_factory=list)
    _loading: asyncio.Task[None] | None = None
    _asked: str = ""
    """The avatar of a switch that has no answer yet."""
    _renewing: asyncio.Task[LiveAvatar] | None = None

    def __post_init__(self) -> None:
        self._held.append(self.live)
        self.announced = self._former = self.machine.shown

    async def begin(self, request: pb.SwitchAvatar) -> None:
        """Begins a switch. It takes the place of one that is not done."""
        await self._give_up_former()
        self._asked = request.model_id
        self._loading = asyncio.create_task(self._load(request))

    async def _give_up_former(self) -> None:
        if self._loading and not self._loading.done():
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._asked and not self._is_planned():
            self.note(events.switch_failed(self._asked, Aborted("another switch took its place")))
            self._asked = ""
            if self.machine.shown is not self.announced:
                self.machine.switch_to(self._former)

    def _is_planned(self) -> bool:
        """Tells if frames of the new avatar have their place already."""
        return any(frame.shown is not self.announced for frame in self.machine.planned)

    async def _load(self, request: pb.SwitchAvatar) -> None:
        live: LiveAvatar | None = None
        try:
            _check(request)
            request_context.avatar_id.set(request.model_id)  # of this task alone
            live = await hold_avatar(self.store, self.resting, request.model_id, self.config)
            await make_ready(self.source, live, request.start_frame_idx, in_real_time=self.config.plan.in_real_time)
        except ServiceError as error:
            await _release(live)
            self._asked = ""
            self.note(events.switch_failed(request.model_id, error))
        except BaseException:
            await _release(live)
            raise
        else:
            self._held.append(live)
            machine = self.machine
            before = machine.shown
            self._former = Shown(before.avatar, machine.next_position, before.following, before.idle_frames)
            self.live = live
            machine.switch_to(live.shown(request.start_frame_idx, idle_frames=before.idle_frames))
        self.wake()

    def announcement(self, frame: Planned) -> pb.SessionEvent | None:
        """Returns the event that must leave before a frame, if it is the first of another avatar."""
        if frame.shown is self.announced:
            return None
        same = frame.shown.avatar is self.announced.avatar
        self.announced = frame.shown
        if same:
            return None
        self._asked = ""
        return events.avatar_switched(frame.shown.avatar.avatar, frame.number)

    def take_new_files(self) -> None:
        """Shows the avatar's new files, if it was loaded again and no segment is being shown."""
        if self._renewing:
            if self._renewing.done() and self.machine.may_take_new_files:
                self._show(self._renewing)
        elif self.live.lease.renewed and self.live is self.machine.shown.avatar:
            self._renewing = asyncio.create_task(hold_avatar(self.store, self.resting, self.live.lease.key, self.config))

    async def renew(self, live: LiveAvatar) -> bool:
        """Loads an avatar again whose files were replaced, also within a segment. Returns False if they are the same."""
        with as_service_errors(AvatarError, field="model_id"):
            if not await self.store.renew(live.lease):
                return False
        renewed = await hold_avatar(self.store, self.resting, live.lease.key, self.config)
        self._held.append(renewed)
        self._replace(live, renewed)
        return True

    async def let_go(self) -> None:
        """Lets go of the avatars that are not shown any more."""
        if len(self._held) > 1:
            used = {frame.shown.avatar for frame in self.machine.planned}
            used |= {self.live, self.announced.avatar, self.machine.shown.avatar}
            if self._asked:
                used.add(self._former.avatar)
            for live in [live for live in self._held if live not in used]:
                self._held.remove(live)
                await live.release()

    async def close(self) -> None:
        """Lets go of all avatars."""
        for task in (self._loading, self._renewing):
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._renewing and not self._renewing.cancelled() and not self._renewing.exception():
            self._held.append(self._renewing.result())
        for live in self._held:
            await live.release()

    def _show(self, renewing: asyncio.Task[LiveAvatar]) -> None:
        self._renewing = None
        if renewing.cancelled() or renewing.exception():
            return  # the files that are shown stay
        renewed = renewing.result()
        self._held.append(renewed)
        self._replace(self.live, renewed)

    def _replace(self, old: LiveAvatar, new: LiveAvatar) -> None:
        machine = self.machine
        for shown in {frame.shown for frame in machine.planned} | {machine.shown}:
            if shown.avatar is old:
                machine.replan(shown, new.shown(machine.next_position, idle_frames=shown.idle_frames))
        if self.live is old:
            self.live = new


def _check(request: pb.SwitchAvatar) -> None:
    read_model_id(request.model_id)
    if request.start_frame_idx < 0:
        problem = f"is {request.start_frame_idx}; a position on the timeline is 0 or more"
        raise InvalidRequest([Violation("start_frame_idx", problem)])


async def _release(live: LiveAvatar | None) -> None:
    if live:
        await live.release()
