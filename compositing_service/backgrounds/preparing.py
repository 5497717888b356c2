"""Preparing an avatar's frames ahead of need, in the order in which reading them is cheap."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from avatar_kit.frame_pass import FramePass
from avatar_kit.geometry import Picture
from avatar_kit.video.frames import VideoFrames
from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.outputs import Output


class Preparation(Protocol):
    """Thread-safe."""

    def step(self) -> bool:
        """Prepares one more frame. False: all are prepared, or room is out. Blocks. Raises BrokenAvatar for a frame."""

    def wish(self, indices: Sequence[int], output: Output) -> Future[None] | None:
        """Returns a future to await before compositing these frames in that form; None if there is nothing to wait for."""

    def end(self) -> None:
        """Ends the preparation: releases all waiters and prepares nothing more. Blocks until a frame being read is finished."""


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

    def wish(self, indices: Sequence[int], output: Output) -> Future[None] | None:
        return None

    def end(self) -> None:
        self._indices = iter(range(0))


class _Filmed:
    """Each decoded once, those that requests wait for first."""

    def __init__(self, composer: AvatarComposer, video: VideoFrames, quality: int) -> None:
        def is_there(index: int) -> bool:
            return composer.is_prepared(index, quality=quality)

        def take(index: int, picture: Picture, outputs: frozenset[Output]) -> bool:
            """Frames that a request waits for may evict others; the rest are kept only if there is free room."""
            for output in outputs:
                composer.keep(index, picture, output)
            return composer.prepare(index, quality=quality, picture=picture)

        # Not methods: the pass would hold this object, and the two of them the video of an avatar that was dropped.
        self._pass = FramePass[Output](composer.avatar, video, take, is_there=is_there)

    def step(self) -> bool:
        return self._pass.step()

    def wish(self, indices: Sequence[int], output: Output) -> Future[None] | None:
        return self._pass.wish(indices, output)

    def end(self) -> None:
        self._pass.end()
