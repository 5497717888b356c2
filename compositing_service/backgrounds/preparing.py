"""Preparing an avatar's frames ahead of need, in the order in which reading them is cheap."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from avatar_kit.frame_pass import FramePass
from avatar_kit.geometry import Picture
from avatar_kit.video.frames import VideoFrames
from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.backgrounds.preparation import Preparation


def preparation_of(composer: AvatarComposer, *, quality: int) -> Preparation:
    """The way to prepare this avatar's frames at that quality."""
    video = composer.avatar.video
    return _Pictures(composer, quality) if video is None else _Filmed(composer, video, quality)


class _Pictures:
    """Any of them can be read at any time: nobody waits."""

    def __init__(self, composer: AvatarComposer, quality: int) -> None:
        self._composer, self._quality = composer, quality
        self._indices = iter(range(composer.avatar.frame_count))

    def step(self) -> bool:
        index = next(self._indices, None)
        return index is not None and self._composer.prepare(index, quality=self._quality)

    def wish(self, indices: Sequence[int], *, quality: int | None) -> Future[None] | None:
        return None

    def end(self) -> None:
        self._indices = iter(range(0))


class _Filmed:
    """Each decoded once, those that requests wait for first."""

    def __init__(self, composer: AvatarComposer, video: VideoFrames, quality: int) -> None:
        def is_there(index: int) -> bool:
            return composer.is_prepared(index, quality=quality)

        def take(index: int, picture: Picture, qualities: frozenset[int | None]) -> bool:
            """Room is made for what somebody waits for, and only found for the rest."""
            for wished in qualities:
                composer.keep(index, picture, quality=wished)
            return composer.prepare(index, quality=quality, picture=picture)

        # Not methods: the pass would hold this object, and the two of them the video of an avatar that was dropped.
        self._pass = FramePass[int | None](composer.avatar, video, take, is_there=is_there, read=composer.sample)
        composer.sample = None

    def step(self) -> bool:
        return self._pass.step()

    def wish(self, indices: Sequence[int], *, quality: int | None) -> Future[None] | None:
        return self._pass.wish(indices, quality)

    def end(self) -> None:
        self._pass.end()
