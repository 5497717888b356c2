"""Stills of avatars: the person at rest, in the size that is asked for."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from gateway_service.api.kept import Kept
from service_kit.clock import Clock

# Making one may load the avatar: more at once would take the services from those who speak.
_AT_ONCE = 2
_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Still:
    """A JPEG file and its entity tag."""

    jpeg: bytes = field(repr=False)
    etag: str

    @classmethod
    def of(cls, jpeg: bytes) -> Still:
        """Names a file by its content."""
        return cls(jpeg, hashlib.sha256(jpeg).hexdigest()[:32])


class Stills:
    """Makes and keeps stills. `picture` gets the JPEG file of an avatar at rest."""

    def __init__(self, picture: Callable[[str], Awaitable[bytes]], clock: Clock, *, seconds: float, most_bytes: int) -> None:
        self._picture = picture
        self._kept: Kept[tuple[str, int | None], Still] = Kept(clock, seconds=seconds, most=most_bytes, size=_size)
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def get(self, avatar: str, width: int | None) -> Still:
        """Returns the still of an avatar, scaled down to `width` pixels if it is wider. Raises what `picture` raises."""
        whole = await self._kept.get((avatar, None), lambda: self._whole(avatar))
        if width is None:
            return whole
        return await self._kept.get((avatar, width), lambda: self._scaled(whole, width))

    async def close(self) -> None:
        """Ends what is being made."""
        await self._kept.close()

    async def _whole(self, avatar: str) -> Still:
        async with self._turn:
            return Still.of(await self._picture(avatar))

    async def _scaled(self, whole: Still, width: int) -> Still:
        async with self._turn:
            return Still.of(await asyncio.to_thread(scaled_down, whole.jpeg, width))


def scaled_down(jpeg: bytes, width: int) -> bytes:
    """Returns a JPEG file of `width` pixels, the height in proportion; the file itself if it is not wider."""
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None or pixels.shape[1] <= width:
        return jpeg
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _size(still: Still) -> int:
    return len(still.jpeg)
