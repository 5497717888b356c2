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
from compositing_service.sessions.frames import Shown
from compositing_service.sessions.live_avatar import LiveAvatar, PlaceRequest, hold_avatar, hold_ready
from compositing_service.sessions.machine import Machine
from compositing_service.sessions.making import Planned
from service_kit import request_context
from service_kit.callers.caller import check_avatar
from service_kit.errors import Aborted, InvalidRequest, ServiceError, Violation, as_service_errors
from shared_proto import compositing_pb2 as pb


@dataclass(eq=False, slots=True)
class _Asked:
    """A switch that has no answer yet."""

    avatar_id: str
    live: LiveAvatar | None = None
    """Once it is loaded."""
    former: Shown[LiveAvatar] | None = None
    """The avatar that is shown again if it is given up."""


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
    announced: LiveAvatar = field(init=False)
    """The avatar that the client knows."""
    _held: list[LiveAvatar] = field(default_factory=list)
    _asked: list[_Asked] = field(default_factory=list)
    """In the order in which they came. All but the last are loaded and have planned frames, or had them before an interrupt."""
    _loading: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._held.append(self.live)
        self.announced = self.live

    async def begin(self, request: pb.SwitchAvatar) -> None:
        """Begins a switch. It takes the place of one that is not done."""
        if self._loading and not self._loading.done():
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._asked and not self._is_planned(self._asked[-1]):
            self._give_up(self._asked.pop())
        asked = _Asked(request.model_id)
        self._asked.append(asked)
        self._loading = asyncio.create_task(self._load(request, asked))

    @property
    def has_work(self) -> bool:
        """Tells if `let_go` or `take_new_files` may have something to do."""
        return len(self._held) > 1 or self.live.lease.renewed

    def _is_planned(self, asked: _Asked) -> bool:
        """Tells if frames of the new avatar have their place already."""
        return any(frame.shown.avatar is asked.live for frame in self.machine.planned)

    def _give_up(self, asked: _Asked) -> None:
        self.note(_taken_over(asked))
        if asked.former and self.live is asked.live:
            self.live = asked.former.avatar
            self.machine.switch_to(asked.former)

    async def _load(self, request: pb.SwitchAvatar, asked: _Asked) -> None:
        try:
            _check(request)
            request_context.avatar_id.set(request.model_id)  # of this task alone
            live = await hold_ready(
                self.store, self.resting, self.source, request.model_id, self.config, request.start_frame_idx, PlaceRequest()
            )
        except ServiceError as error:
            self._asked.remove(asked)
            self.note(events.switch_failed(request.model_id, error))
        else:
            self._held.append(live)
            before = self.machine.shown
            asked.live, asked.former = live, before
            self.live = live
            self.machine.switch_to(live.shown(request.start_frame_idx, idle_frames=before.idle_frames))
        self.wake()

    def announcements(self, frame: Planned) -> list[pb.SessionEvent]:
        """Returns the events that must leave before a frame, if it is the first of another avatar."""
        live = frame.shown.avatar
        if live is self.announced:
            return []
        self.announced = live
        place = next((place for place, asked in enumerate(self._asked) if asked.live is live), -1)
        # Frames of the earlier ones were planned, and dropped by an interrupt.
        earlier, self._asked = self._asked[: max(0, place)], self._asked[place + 1 :]
        return [*map(_taken_over, earlier), events.avatar_switched(live.avatar, frame.number)]

    async def take_new_files(self) -> None:
        """Shows the avatar's new files, if it was loaded again and the next frame may show them."""
        machine, old = self.machine, self.live
        if old.lease.renewed and old is machine.shown.avatar and machine.may_take_new_files:
            new = await self._newest(old)  # loaded already, so no message comes in between
            machine.go_on_with(new.shown_on(machine.shown, machine.next_position))
            self._replace(old, new)

    async def renew(self, live: LiveAvatar) -> bool:
        """Loads an avatar again whose files were replaced, also within a segment. Returns False if they are the same."""
        with as_service_errors(AvatarError, field="model_id"):
            if not await self.store.renew(live.lease):
                return False
        new, machine = await self._newest(live), self.machine
        for shown in {frame.shown for frame in machine.planned} | {machine.shown}:
            if shown.avatar is live:
                machine.replan(shown, new.shown_on(shown, machine.next_position))
        self._replace(live, new)
        return True

    async def _newest(self, live: LiveAvatar) -> LiveAvatar:
        """Holds the avatar as it was loaded last."""
        newest = self.store.find(live.lease.key)
        for held in self._held:
            if held.lease is newest:
                return held
        new = await hold_avatar(self.store, self.resting, live.lease.key, self.config)
        self._held.append(new)
        return new

    def _replace(self, old: LiveAvatar, new: LiveAvatar) -> None:
        for asked in self._asked:
            if asked.live is old:
                asked.live = new
        if self.live is old:
            self.live = new

    async def let_go(self) -> None:
        """Lets go of the avatars that are not shown any more."""
        if len(self._held) > 1:
            used = {frame.shown.avatar for frame in self.machine.planned}
            used |= {self.live, self.announced, self.machine.shown.avatar}
            used |= {asked.former.avatar for asked in self._asked if asked.former}
            for live in [live for live in self._held if live not in used]:
                self._held.remove(live)
                await live.release()

    async def close(self) -> None:
        """Lets go of all avatars."""
        if self._loading:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        for live in self._held:
            await live.release()


def _taken_over(asked: _Asked) -> pb.SessionEvent:
    return events.switch_failed(asked.avatar_id, Aborted("another switch took its place"))


def _check(request: pb.SwitchAvatar) -> None:
    check_avatar(read_model_id(request.model_id))
    if request.start_frame_idx < 0:
        problem = f"is {request.start_frame_idx}; a position on the timeline is 0 or more"
        raise InvalidRequest([Violation("start_frame_idx", problem)])
