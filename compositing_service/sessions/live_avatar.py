"""An avatar while a session shows it: held in this service, and ready in the inference service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, replace

from avatar_kit.avatar import Avatar
from avatar_kit.errors import AvatarError
from avatar_kit.timeline import IdleMouth, frame_at, idle_positions, period
from compositing_service.backgrounds.composer import Pieces
from compositing_service.backgrounds.resting import RestingPictures, Wanted
from compositing_service.backgrounds.store import AvatarLease, BackgroundStore
from compositing_service.mouth_source import FITS, MouthOrder, MouthSource, Windows
from compositing_service.outputs import Output
from compositing_service.picture.paste import Mouth
from compositing_service.sessions.config import SessionConfig
from compositing_service.sessions.frames import Shown
from service_kit.deadline import Deadline
from service_kit.errors import Aborted, as_service_errors
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2

_MAX_POSITION = 2**31 - 1  # the largest int32, the type of positions on the wire
# Longer than any avatar takes to load in the inference service.
LOAD_SECONDS = 120.0
# Nobody waits for a picture yet, but the session must not wait for batch work either.
_DUE_MS = 1000
# A resumed session looks so often for a replica that computes as before: a balancer may lead to another each time.
_LOOKS = 4
# Passing each idle frame alone to a thread would cost more than making it.
IDLE_FRAMES_AT_ONCE = 4


@dataclass(eq=False, slots=True)
class LiveAvatar:
    """A held avatar. `release` lets go of it."""

    lease: AvatarLease
    rests: bool
    """Shows the mouth of silence while nobody speaks, not the stored pictures."""
    _resting: RestingPictures
    _output: Output
    _holding: AsyncExitStack
    _wanted: Wanted | None = None
    """Has the mouths of silence made that are missing."""

    @property
    def avatar(self) -> Avatar:
        """The avatar's description."""
        return self.lease.value.avatar

    @property
    def encoder(self) -> object:
        """Identifies its audio encoder: avatars with equal ones have the same feature rows."""
        avatar = self.avatar
        return (avatar.id, avatar.version) if avatar.audio_encoder_path else None

    def following(self, position: int, is_idle: bool) -> int:
        """Returns the position after `position`, which fits an int32."""
        avatar = self.avatar
        after = position + 1
        if is_idle:
            _, after = idle_positions(position, 1, frame_count=avatar.frame_count, loop=avatar.loop, idle=avatar.idle)
        return after if after <= _MAX_POSITION else after % period(avatar.frame_count, avatar.loop)

    def shown(self, first_position: int, *, idle_frames: bool) -> Shown[LiveAvatar]:
        """Returns it as a session's machine takes it. With idle frames, their mouths of silence are made from now on."""
        if idle_frames and self.rests and not self._wanted:
            self._wanted = self._holding.enter_context(self._resting.wanted(self.lease, self._output, first_position))
        return Shown(self, first_position, self.following, idle_frames)

    def shown_on(self, before: Shown[LiveAvatar], position: int) -> Shown[LiveAvatar]:
        """Returns it as what goes on from `position` of the same avatar, that of `before`."""
        shown = self.shown(position, idle_frames=before.idle_frames)
        return replace(shown, first_position=before.first_position, timeline=before.timeline)

    def indices(self, positions: Iterable[int]) -> list[int]:
        """Returns the indices of the pictures at these positions."""
        avatar = self.avatar
        return [frame_at(position, avatar.frame_count, avatar.loop) for position in positions]

    def idle_positions(self, position: int, count: int) -> list[int]:
        """Returns the positions of so many idle frames from `position` on; fewer where they would come again."""
        positions = [position]
        while len(positions) < count and (after := self.following(positions[-1], True)) not in positions:
            positions.append(after)
        return positions

    def first_at_rest(self, position: int, count: int) -> list[int]:
        """Returns the pictures of the first idle frames from `position` on that lack their mouths of silence; at least one."""
        indices = self.indices(self.idle_positions(position, count))
        return self.lease.value.unrested(dict.fromkeys(indices), self._output) or indices[:1]

    def keep_at_rest(self, mouths: Iterable[tuple[int, Mouth]]) -> None:
        """Keeps mouths of silence of these pictures, if it rests. Blocks."""
        for index, mouth in mouths if self.rests else ():
            with suppress(AvatarError):  # told when the picture is shown
                self.lease.value.keep_resting(index, mouth, self._output)

    def picture_at_hand(self, position: int) -> Pieces | None:
        """Returns the picture of an idle or silent frame, if it takes no time: handing it to a thread would cost more."""
        if self._wanted:
            self._wanted.position = position
        [index] = self.indices((position,))
        return self.lease.value.at_hand(index, self._output, resting=self.rests)

    def idle_pictures(self, positions: Sequence[int]) -> list[bytes]:
        """Returns the pictures of idle frames. Blocks; raises AvatarError."""
        if self._wanted:
            self._wanted.position = positions[-1]
        composer, indices = self.lease.value, self.indices(positions)
        if self.rests:
            return [self._resting.shown(composer, index, self._output) for index in indices]
        return [composer.stored(index, self._output) for index in indices]

    def needs_network(self, position: int) -> bool:
        """Tells if a silent frame of a segment needs the network: its mouth of silence is wanted, and not kept."""
        return self.rests and bool(self.lease.value.unrested(self.indices([position]), self._output))

    def silent_pictures(self, positions: Sequence[int]) -> list[bytes | None]:
        """Returns the pictures of silent frames of a segment; None where the mouth was dropped. Blocks; raises AvatarError."""
        composer = self.lease.value
        show = composer.resting if self.rests else composer.stored
        return [show(index, self._output) for index in self.indices(positions)]

    async def silence(self, *, deadline: Deadline, due_in_ms: int) -> Windows:
        """Returns the window of endless silence. Raises ServiceError."""
        return await self._resting.silence(self.lease, deadline=deadline, due_in_ms=due_in_ms)

    async def release(self) -> None:
        """Lets go of it."""
        await self._holding.aclose()


@dataclass(frozen=True, slots=True)
class PlaceRequest:
    """A request for a place, which goes with the first mouths of an avatar. By default none is asked for."""

    admission: inference_pb2.SessionAdmission.ValueType = inference_pb2.ADMITTED
    rate: inference_pb2.MouthRate.ValueType = inference_pb2.MOUTH_RATE_FULL
    numerics: str = ""
    """Replicas that compute mouths so are preferred."""

    @classmethod
    def of(cls, config: SessionConfig) -> PlaceRequest:
        """Returns the request of a session that begins or resumes. One as fast as possible needs no place."""
        admission = inference_pb2.RESUMED_SESSION if config.plan.is_resumed else inference_pb2.NEW_SESSION
        if not config.plan.in_real_time:
            admission = inference_pb2.ADMITTED
        rate = inference_pb2.MOUTH_RATE_MAY_HALVE if config.allow_half_rate else inference_pb2.MOUTH_RATE_FULL
        return cls(admission, rate, config.numerics)


async def hold_ready(
    store: BackgroundStore,
    resting: RestingPictures,
    source: MouthSource,
    avatar_id: str,
    config: SessionConfig,
    position: int,
    place: PlaceRequest,
) -> LiveAvatar:
    """Loads and holds an avatar in both services, ready to be shown from `position` on, and asks for a place.

    Begins again, once, if the avatar's files were replaced. Raises ServiceError.
    """
    in_real_time = config.plan.in_real_time
    renewed = False
    while True:
        live = await hold_avatar(store, resting, avatar_id, config)
        async with AsyncExitStack() as holding:
            holding.push_async_callback(live.release)
            try:
                await make_ready(source, live, position, place, in_real_time=in_real_time)
                holding.pop_all()
                return live
            except Aborted:
                with as_service_errors(AvatarError, field="model_id"):
                    if renewed or not await store.renew(live.lease):
                        raise
                renewed = True


async def hold_avatar(store: BackgroundStore, resting: RestingPictures, avatar_id: str, config: SessionConfig) -> LiveAvatar:
    """Loads and holds an avatar in this service for a session. Raises ServiceError."""
    holding = AsyncExitStack()
    with as_service_errors(AvatarError, field="model_id"):
        lease = await holding.enter_async_context(store.acquire(avatar_id))
    chosen = config.idle == pb.IDLE_AVATAR and lease.value.avatar.idle_mouth is IdleMouth.STORED
    rests = config.idle != pb.IDLE_STORED and not chosen
    return LiveAvatar(lease, rests, resting, config.pictures, holding)


async def make_ready(
    source: MouthSource,
    live: LiveAvatar,
    position: int,
    place: PlaceRequest,
    *,
    in_real_time: bool,
) -> None:
    """Loads the avatar's network by mouths of silence, and asks for a place for a session in real time. Raises ServiceError.

    They are those of the idle frames that it shows first from `position` on. If they are computed in another way than the place
    asks for, it looks for another replica: which of them computes how is known only from mouths.
    """
    deadline = Deadline.after(LOAD_SECONDS)
    avatar = live.avatar
    due_in_ms = _DUE_MS if in_real_time else 0
    window = await live.silence(deadline=deadline, due_in_ms=due_in_ms)
    for _ in range(_LOOKS):
        indices = live.first_at_rest(position, IDLE_FRAMES_AT_ONCE if in_real_time and live.rests else 1)
        order = MouthOrder(
            avatar.id,
            avatar.version,
            indices,
            window,
            due_in_ms=due_in_ms,
            admission=place.admission,
            fit=FITS[avatar.paste],
            rate=place.rate,
            numerics=place.numerics,
        )
        waiting, found = iter(indices), ""
        async with aclosing(source.mouths(order, deadline=deadline)) as groups:
            async for group in groups:
                found = group.numerics
                await asyncio.to_thread(live.keep_at_rest, [(next(waiting), mouth) for mouth in group.pixels])
        if not place.numerics or found in ("", place.numerics):
            return
