"""Pictures, avatars and judges for the compositing core.

The judges are written from the definitions, with OpenCV, NumPy and turbojpeg alone: they call nothing of compositing_service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import turbojpeg
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.geometry import Paste, Picture, Rect
from avatar_kit.writer import AvatarWriter
from compositing_service.backgrounds.composer import AvatarComposer, open_composer
from compositing_service.backgrounds.frame_cache import FrameCache
from compositing_service.backgrounds.store import BackgroundStore

PATIENCE_S = 120


class Judges:
    """Whole-picture ways of making what the service splices."""

    @staticmethod
    def opencv(picture: Picture, *, quality: int, restart_interval: int) -> bytes:
        settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, restart_interval]
        settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
        return cv2.imencode(".jpg", np.ascontiguousarray(picture), settings)[1].tobytes()

    @staticmethod
    def turbojpeg(picture: Picture, *, quality: int, restart_interval: int) -> bytes:
        return bytes(
            turbojpeg.compress(
                np.ascontiguousarray(picture),
                quality,
                turbojpeg.SAMP.Y420,
                pixelformat=turbojpeg.PF.BGR,
                restartblocks=restart_interval,
            )
        )

    @staticmethod
    def pasted(picture: Picture, rect: Rect, mouth: NDArray[np.uint8], paste: Paste) -> Picture:
        """The composited picture by the definitions of the three pastes."""
        width, height = rect.x2 - rect.x1, rect.y2 - rect.y1
        result = picture.copy()
        target = result[rect.y1 : rect.y2, rect.x1 : rect.x2]
        source = mouth
        if paste is not Paste.DIRECT:
            source = cv2.resize(target, (328, 328), interpolation=cv2.INTER_CUBIC)
            source[4:324, 4:324] = mouth
        painted = cv2.resize(source, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, 3).astype(int)
        if paste is Paste.FEATHER:
            weights = Judges.feather_weights(picture, rect)
            painted = (painted * weights + target.astype(int) * (256 - weights) + 128) // 256
        target[...] = painted
        return result

    @staticmethod
    def feather_weights(picture: Picture, rect: Rect) -> NDArray[np.int64]:
        """[height, width, 1]: the mouth's share of 256, pixel by pixel from the documented formula."""
        picture_height, picture_width = picture.shape[:2]
        width, height = rect.x2 - rect.x1, rect.y2 - rect.y1
        across, down = max(1, round(width * 12 / 328)), max(1, round(height * 12 / 328))
        weights = np.full((height, width, 1), 256)
        for y in range(height):
            for x in range(width):
                sides = [
                    (x, across, rect.x1 > 0),
                    (width - 1 - x, across, rect.x2 < picture_width),
                    (y, down, rect.y1 > 0),
                    (height - 1 - y, down, rect.y2 < picture_height),
                ]
                for distance, ramp, soft in sides:
                    if soft and distance < ramp:
                        weights[y, x] = min(weights[y, x, 0], (2 * distance + 1) * 128 // ramp)
        return weights


def texture(width: int, height: int, *, seed: int, smoothness: float = 2.0) -> Picture:
    """Random pixels, blurred by `smoothness` pixels and stretched back over all values; 0 is noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if smoothness == 0:
        return noise
    blurred = cv2.GaussianBlur(noise, (0, 0), smoothness).reshape(height, width, 3)
    return cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U).reshape(height, width, 3)


def write_avatar(
    root: Path,
    avatar_id: str = "someone",
    *,
    size: tuple[int, int] = (96, 80),
    rects: Sequence[Rect] = (Rect(30, 20, 62, 52),) * 4,
    paste: Paste = Paste.REFERENCE,
    seed: int = 0,
    replace: bool = False,
) -> Avatar:
    """An avatar of lossless random frames, one for each rectangle. Its network is a stand-in: nothing here runs it."""
    width, height = size
    with AvatarWriter(root, avatar_id, width=width, height=height, paste=paste, replace=replace) as writer:
        for index, rect in enumerate(rects):
            picture = texture(width, height, seed=seed + index)
            writer.add_frame(cv2.imencode(".png", picture)[1].tobytes(), rect)
        writer.set_network(b"no network")
        return writer.finish()


def composer_of(avatar: Avatar, *, max_bytes: int = 10**9, max_frames: int = 10**6) -> AvatarComposer:
    cache = FrameCache(max_bytes=max_bytes, policy="lfu")
    return open_composer(avatar, cache=cache, frames=cache.open(max_frames=max_frames))


@pytest.fixture(scope="session")
def judges() -> type[Judges]:
    return Judges


@pytest.fixture(scope="session")
def make_texture() -> Callable[..., Picture]:
    return texture


@pytest.fixture(scope="session")
def make_avatar() -> Callable[..., Avatar]:
    return write_avatar


@pytest.fixture(scope="session")
def make_composer() -> Callable[..., AvatarComposer]:
    return composer_of


@pytest.fixture(scope="session")
def mouths() -> list[NDArray[np.uint8]]:
    """Read-only, as they come off the wire."""
    pictures = [texture(320, 320, seed=1000 + index, smoothness=4) for index in range(4)]
    return [np.frombuffer(picture.tobytes(), np.uint8).reshape(320, 320, 3) for picture in pictures]


@pytest.fixture
def store_settings() -> dict[str, Any]:
    """Arguments that a module gives to all of its stores; a module overrides it."""
    return {}


@pytest.fixture
async def make_store(catalog: AvatarCatalog, store_settings: dict[str, Any]) -> AsyncIterator[Callable[..., BackgroundStore]]:
    """Makes stores of the module's `catalog`, with room for everything unless the settings say otherwise; closes them."""
    stores: list[BackgroundStore] = []
    defaults = {"max_bytes": 10**9, "max_avatars": 10, "frames_per_avatar": 1000, "policy": "lfu", "default_quality": 75}

    def make(**settings: Any) -> BackgroundStore:
        stores.append(BackgroundStore(catalog, **defaults | store_settings | settings))
        return stores[-1]

    async with asyncio.timeout(PATIENCE_S):
        yield make
        for store in stores:
            await store.close()
