"""The pictures of avatars at rest: with the network's mouth of silence, made once for each picture and output, ahead of need.

An avatar whose `idle_mouth` is `rest` is shown so while it does not speak; its composer keeps the mouths. Sessions say from where
on they will show it (`wanted`), and the missing mouths are ordered as batch work, which takes what others leave of the network. A
request for idle frames orders those that it lacks at once (`pictures`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import aclosing, contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakKeyDictionary

from avatar_kit.errors import AvatarError
from avatar_kit.timeline import frame_at, idle_positions, period
from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.backgrounds.store import AvatarLease
from compositing_service.metrics import CompositingMetrics
from compositing_service.mouth_source import FITS, MouthOrder, Mouths, MouthSource, RowsOrder, Sound, Windows
from compositing_service.outputs import Output
from service_kit import request_context
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.deadline import Deadline
from service_kit.errors import Aborted, DeadlineExceeded, ResourceExhausted, ServiceError, Unavailable
from shared_proto.timing import FRAME_RATE

log = logging.getLogger(__name__)

# Few enough that a speaking caller does not wait long behind them, enough to fill a run of the network.
FRAMES_AN_ORDER = 8
# Orders that the whole service has under way ahead of need.
_ORDERS_AT_ONCE = 2
# Longer than any avatar takes to load in the inference service.
_ORDER_SECONDS = 120.0
# After the last missing mouth, or without room: mouths may have been dropped, or room may be free again.
_LOOK_AGAIN_S = 5.0
# After a failure: of a service that is away, and of a network that needs an operator.
RETRY_S, BROKEN_RETRY_S = 2.0, 60.0
_FRAMES_A_JOB = 4
# Begins the request ids of orders ahead of need.
REST_PREFIX = "rest-"
# Positions walked before other tasks get a turn.
_STEPS = 256


@dataclass(slots=True)
class _Silence:
    """The state of orders for one loaded avatar."""

    window: Windows | None = None
    next_try_s: float = 0.0
    told: str = ""
    """The error last logged."""


@dataclass(slots=True, eq=False)
class Wanted:
    """One holder's wish to show an avatar at rest."""

    position: int
    """The position on the timeline that is shown next; the holder may move it."""


_ONE_SAMPLE = bytes(4)  # float32 zero
# Any row far before the sound is silent.
_SILENT_ROW = -100
_PASSING = (Aborted, DeadlineExceeded, ResourceExhausted, Unavailable)
_Key: TypeAlias = tuple[AvatarLease, Output]


class RestingPictures:
    """Use from one event loop, but for `shown`. One for the service."""

    def __init__(self, source: MouthSource, pool: Executor, metrics: CompositingMetrics, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """`pool`: the threads that composite."""
        self._source, self._pool, self._metrics, self._clock = source, pool, metrics, clock
        self._turns = asyncio.Semaphore(_ORDERS_AT_ONCE)
        self._silences: WeakKeyDictionary[AvatarLease, _Silence] = WeakKeyDictionary()
        self._makers: dict[_Key, _Maker] = {}

    def shown(self, composer: AvatarComposer, index: int, output: Output) -> bytes:
        """Returns the picture at rest; as stored, and counted, if its mouth is not kept. Blocks; any thread may call it.

        Raises as the composer's methods.
        """
        picture = composer.resting(index, output)
        if picture is None:
            picture = composer.stored(index, output)
            self._metrics.unrested_frames.inc()
        return picture

    @contextmanager
    def wanted(self, lease: AvatarLease, output: Output, position: int) -> Iterator[Wanted]:
        """Has the missing mouths made during the block, those first that are shown first from `position` on.

        The caller holds the lease. Callers of the same lease and output share the work. It tries again while inference is away,
        and ends when the avatar is unloaded or loaded anew.
        """
        key, wish = (lease, output), Wanted(position)
        maker = self._makers.get(key)
        if maker is None:
            maker = self._makers[key] = _Maker(lease, output)
            maker.task = asyncio.create_task(self._make_missing(maker), name=f"rest-{lease.key}", context=_own_context(lease.key))
        maker.wishes.append(wish)
        maker.changed.set()
        try:
            yield wish
        finally:
            maker.wishes.remove(wish)
            if not maker.wishes:
                del self._makers[key]
                maker.task.cancel()

    async def pictures(self, lease: AvatarLease, indices: Sequence[int], output: Output, *, deadline: Deadline) -> list[bytes]:
        """Returns these pictures at rest: those kept, and the others made now; as stored, and counted, without the network.

        The network has half of the time until `deadline`. Raises Aborted when it has another version of the avatar, and
        AvatarError.
        """
        composer, made = lease.value, dict[int, bytes]()
        missing = composer.unrested(dict.fromkeys(indices), output)
        if missing and self._clock.now() >= self._silence(lease).next_try_s:
            try:
                await self._make(lease, missing, output, Deadline.after(deadline.remaining_s() / 2, clock=deadline.clock), made)
            except Aborted:
                raise
            except ServiceError as error:
                self._note(lease, error)
        loop = asyncio.get_running_loop()
        parts = [indices[start : start + _FRAMES_A_JOB] for start in range(0, len(indices), _FRAMES_A_JOB)]
        jobs = [loop.run_in_executor(self._pool, self._all_shown, composer, part, output, made) for part in parts]
        return [picture for part in await asyncio.gather(*jobs) for picture in part]

    def _all_shown(
        self, composer: AvatarComposer, indices: Sequence[int], output: Output, made: Mapping[int, bytes]
    ) -> list[bytes]:
        return [made.get(index) or self.shown(composer, index, output) for index in indices]

    async def _make_missing(self, maker: _Maker) -> None:
        """Makes what is missing, and looks again from time to time, until the avatar is dropped."""
        silence = self._silence(maker.lease)
        while not maker.lease.dropped:
            if (pause_s := silence.next_try_s - self._clock.now()) > 0:
                await self._clock.sleep(pause_s)
                continue
            maker.changed.clear()
            missing = await maker.missing()
            if not missing:
                await self._clock.wait(maker.changed, _LOOK_AGAIN_S)
                continue
            made, begun_s = dict[int, bytes](), self._clock.now()
            try:
                async with self._turns:
                    await self._make(maker.lease, missing, maker.output, Deadline.after(_ORDER_SECONDS, clock=self._clock), made)
            except ServiceError as error:
                self._note(maker.lease, error)
                continue
            maker.order_frames = round((self._clock.now() - begun_s) * FRAME_RATE)
            maker.unreadable |= set(missing) - made.keys()
            if len(maker.lease.value.unrested(made, maker.output)) == len(made):  # there is no room for them
                await self._clock.sleep(_LOOK_AGAIN_S)

    async def _make(
        self, lease: AvatarLease, indices: Sequence[int], output: Output, deadline: Deadline, made: dict[int, bytes]
    ) -> None:
        """Makes these pictures, keeps their mouths, and adds them to `made` as they come. Raises ServiceError."""
        composer, avatar = lease.value, lease.value.avatar
        window = await self.silence(lease, deadline=deadline)
        order = MouthOrder(avatar.id, avatar.version, indices, window, fit=FITS[avatar.paste])
        loop, first = asyncio.get_running_loop(), 0
        async with aclosing(self._source.mouths(order, deadline=deadline)) as groups:
            async for group in groups:
                part = indices[first : first + len(group.pixels)]
                made |= await loop.run_in_executor(self._pool, _kept, composer, part, group, output)
                first += len(part)
        self._silence(lease).told = ""

    async def silence(self, lease: AvatarLease, *, deadline: Deadline, due_in_ms: int = 0) -> Windows:
        """Returns the window of endless silence, which is computed once for each loaded avatar. Raises ServiceError."""
        known, avatar = self._silence(lease), lease.value.avatar
        if known.window is None:
            sound = Sound(_ONE_SAMPLE)
            order = RowsOrder(avatar.id, avatar.version, sound, first_row=_SILENT_ROW, count=1, due_in_ms=due_in_ms)
            known.window = Windows.of_silence((await self._source.rows(order, deadline=deadline)).data)
        return known.window

    def _silence(self, lease: AvatarLease) -> _Silence:
        return self._silences.setdefault(lease, _Silence())

    def _note(self, lease: AvatarLease, error: ServiceError) -> None:
        """Puts the next try off. Logs an error that does not pass by itself, once."""
        silence, passes = self._silence(lease), isinstance(error, _PASSING)
        silence.next_try_s = self._clock.now() + (RETRY_S if passes else BROKEN_RETRY_S)
        if not passes and silence.told != error.message:
            silence.told = error.message
            log.warning("avatar %s is shown with the mouths of its clip while it does not speak: %s", lease.key, error.message)


@dataclass(slots=True, eq=False)
class _Maker:
    """The work for one avatar and output."""

    lease: AvatarLease
    output: Output
    wishes: list[Wanted] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by a new wish."""
    unreadable: set[int] = field(default_factory=set)
    order_frames: int = 0
    """The frames shown while the last order was made."""
    task: asyncio.Task[None] = field(init=False)

    async def missing(self) -> list[int]:
        """Returns the next pictures to be shown whose mouths are missing, at most an order's.

        Leaves out, for now, those that will be shown before the order is made: where the network is slower than the clip, the
        order would always come too late. Holders have their turns; one who lacks nothing gives it to the next.
        """
        composer, avatar = self.lease.value, self.lease.value.avatar
        count, loop, span = avatar.frame_count, avatar.loop, period(avatar.frame_count, avatar.loop)
        seen: set[int] = set()
        self.wishes.append(self.wishes.pop(0))
        for wish in tuple(self.wishes):
            found: dict[int, None] = {}
            _, position = idle_positions(wish.position, self.order_frames % span, frame_count=count, loop=loop, idle=avatar.idle)
            while position % span not in seen and len(found) < FRAMES_AN_ORDER:
                steps, position = idle_positions(position, _STEPS, frame_count=count, loop=loop, idle=avatar.idle)
                seen.update(step % span for step in steps)
                readable = (index for step in steps if (index := frame_at(step, count, loop)) not in self.unreadable)
                found |= dict.fromkeys(composer.unrested(readable, self.output))
                await asyncio.sleep(0)
            if found:
                return list(found)[:FRAMES_AN_ORDER]
        return []


def _kept(composer: AvatarComposer, indices: Sequence[int], group: Mouths, output: Output) -> dict[int, bytes]:
    """Makes and keeps the pictures, but for those that cannot be read. Runs in a thread of the pool."""
    made = {}
    for index, mouth in zip(indices, group.pixels, strict=True):
        with suppress(AvatarError):  # told to those who ask for the picture
            made[index] = composer.keep_resting(index, mouth, output)
    return made


def _own_context(avatar_id: str) -> Context:
    """Returns a context with ids of the work's own: it is of no caller, though one was the first to want it."""
    context = Context()
    context.run(request_context.request_id.set, f"{REST_PREFIX}{request_context.new_request_id()}")
    context.run(request_context.avatar_id.set, avatar_id)
    return context
