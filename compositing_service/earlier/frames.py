"""Makes frames at any places of an avatar's clip, in orders that the inference half accepts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from avatar_kit.avatar import Avatar
from avatar_kit.errors import AvatarError, AvatarReplaced
from avatar_kit.timeline import frame_at
from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.frame_stream import Frame
from compositing_service.mouth_source import MouthOrder, Mouths, Rows, StoredFeatures
from compositing_service.outputs import JpegOutput
from compositing_service.parts import CompositingParts
from service_kit import tracing
from service_kit.deadline import Deadline
from service_kit.errors import Aborted, OutOfRange, as_service_errors
from shared_proto.timing import CONTEXT_ROWS, ROW_BYTES

Speech = Rows | StoredFeatures
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MadeFrames:
    """Frames of one avatar, and what they were made with."""

    composer: AvatarComposer
    speech: Speech
    frames: list[Frame]


@dataclass(frozen=True, slots=True)
class FrameRequests:
    """Makes the frames of requests. Use it on one event loop."""

    parts: CompositingParts
    max_batch_size: int
    """Frames of one order for mouths."""

    @property
    def output(self) -> JpegOutput:
        """The form of all frames."""
        return JpegOutput(self.parts.rules.jpeg_quality)

    async def make(
        self,
        avatar_id: str,
        positions: Sequence[int],
        hear: Callable[[Avatar], Awaitable[Speech]],
        deadline: Deadline,
        *,
        indices_of: str = "",
    ) -> MadeFrames:
        """Makes the frames at positions of the avatar's timeline; `hear` gives their features. Raises ServiceError.

        `indices_of`: the field that the positions come from, where they are indices of the avatar's pictures.
        """

        async def work(composer: AvatarComposer) -> MadeFrames:
            if indices_of:
                check_within_clip(composer.avatar, positions, field=indices_of)
            return await self._made(composer, positions, await hear(composer.avatar), deadline)

        return await self.run(avatar_id, work)

    async def run(self, avatar_id: str, work: Callable[[AvatarComposer], Awaitable[T]]) -> T:
        """Returns what `work` makes with the avatar. Begins again, once, if its files were replaced. Raises ServiceError."""
        renewed = False
        with as_service_errors(AvatarError, field="model_name"):
            while True:
                async with self.parts.store.acquire(avatar_id) as lease:
                    try:
                        return await work(lease.value)
                    except (AvatarReplaced, Aborted):
                        if renewed or not await self.parts.store.renew(lease):
                            raise
                        renewed = True

    async def _made(self, composer: AvatarComposer, positions: Sequence[int], speech: Speech, deadline: Deadline) -> MadeFrames:
        mouths = self._mouths(composer.avatar, positions, speech, deadline)
        stream = self.parts.maker.frame_stream(composer, positions, mouths, self.output, ahead=self.max_batch_size)
        async with aclosing(stream):
            frames = [frame async for frame in stream]
        self.parts.maker.metrics.frames.inc(len(frames))
        return MadeFrames(composer, speech, frames)

    async def _mouths(
        self, avatar: Avatar, positions: Sequence[int], speech: Speech, deadline: Deadline
    ) -> AsyncGenerator[Mouths, None]:
        """Yields the mouths of all frames, from as many orders as they take."""
        indices = [frame_at(position, avatar.frame_count, avatar.loop) for position in positions]
        for start in range(0, len(indices), self.max_batch_size):
            part = indices[start : start + self.max_batch_size]
            order = MouthOrder(avatar.id, avatar.version, part, _part(speech, start, len(part)))
            with tracing.span("mouths", frames=len(part)):
                async with aclosing(self.parts.source.mouths(order, deadline=deadline)) as mouths:
                    async for group in mouths:
                        yield group


def check_within_clip(avatar: Avatar, frame_ids: Sequence[int], *, field: str) -> None:
    """Raises OutOfRange for an index that the avatar does not have."""
    if (highest := max(frame_ids)) >= avatar.frame_count:
        raise OutOfRange(f"{field}: has {highest}; this avatar has frames 0 to {avatar.frame_count - 1}")


def _part(speech: Speech, start: int, count: int) -> Speech:
    if isinstance(speech, StoredFeatures):
        return speech
    return Rows(speech.data[start * ROW_BYTES : (start + count + CONTEXT_ROWS) * ROW_BYTES])
