"""The service without a server, with another source of mouths, in a time that a test makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from compositing_service.mouth_source import MouthOrder, Mouths, Rows, RowsOrder, Sound
from compositing_service.parts import CompositingParts, compositing_parts
from compositing_service.request import read_order
from compositing_service.settings import CompositingSettings
from service_kit.deadline import Deadline
from service_kit.errors import NotFound, ServiceError
from service_kit.metrics import Metrics
from service_kit.settings import load_settings
from shared_proto import compositing_pb2 as pb

from ..virtual_clock import VirtualClock
from .conftest import mouth_colours, sound

UNTIL = Deadline.after(60)


class Colours:
    """Mouths of one colour each: the frame's index, its place in the sound, 9."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.health_asked = 0

    async def mouths(self, order: MouthOrder, *, deadline: Deadline) -> AsyncGenerator[Mouths, None]:
        assert isinstance(order.speech, Sound)
        for place, frame in enumerate(order.frames):
            pixels = np.full((1, 320, 320, 3), (frame, order.speech.lead_in_frames + place, 9), np.uint8)
            yield Mouths(pixels, queue_ms=0, inference_ms=1, audio_ms=0, gpu_id=-1)

    async def rows(self, order: RowsOrder, *, deadline: Deadline) -> Rows:
        return Rows(bytes(2048 * order.count))

    async def load(self, avatar_id: str, *, force_reload: bool, deadline: Deadline) -> list[ServiceError | None]:
        self.loaded.add(avatar_id)
        return [None]

    async def unload(self, avatar_id: str, *, deadline: Deadline) -> list[ServiceError | None]:
        if avatar_id not in self.loaded:
            return [NotFound(avatar_id)]
        self.loaded.discard(avatar_id)
        return [None]

    async def healthy(self) -> bool:
        self.health_asked += 1
        return True


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def source() -> Colours:
    return Colours()


@pytest.fixture
async def parts(models_root: Path, clock: VirtualClock, source: Colours) -> AsyncIterator[CompositingParts]:
    overrides = [f"models_root={models_root}", "capacity.idle_timeout_minutes=10", "models.demo.preload_backgrounds=true"]
    settings = load_settings(CompositingSettings, config=None, environ={}, overrides=overrides)
    async with asyncio.timeout(60), compositing_parts(settings, Metrics(), clock=clock, source=source) as parts:
        yield parts


async def test_frames_are_made_with_the_mouths_of_that_source(parts: CompositingParts) -> None:
    request = pb.CompositeBatchRequest(
        model_id="demo", batch_size=3, raw_audio=sound(9), lead_in_frames=4, output_format=pb.FORMAT_RAW_BGR
    )
    reply = await parts.batches.run(read_order(request, parts.rules), UNTIL)
    assert mouth_colours(pb.CompositeBatchResponse.FromString(reply.encode())) == [(0, 4, 9), (1, 5, 9), (2, 6, 9)]


async def test_avatars_are_loaded_and_unloaded_there_too(parts: CompositingParts, source: Colours) -> None:
    await parts.admin.load("demo", force_reload=False, deadline=UNTIL)
    assert source.loaded == {"demo"}
    await parts.admin.unload("demo", deadline=UNTIL)
    assert source.loaded == set()
    with pytest.raises(NotFound):
        await parts.admin.unload("demo", deadline=UNTIL)


async def test_avatars_that_nobody_uses_go_in_time(parts: CompositingParts, clock: VirtualClock) -> None:
    await parts.preload()
    assert parts.store.find("demo")
    await clock.asleep(2)
    await clock.advance(9 * 60)
    assert parts.store.find("demo")
    await clock.advance(2 * 60)
    assert not parts.store.find("demo")


async def test_the_source_is_asked_for_its_health_all_the_while(
    parts: CompositingParts, clock: VirtualClock, source: Colours
) -> None:
    await clock.asleep(2)
    await clock.advance(60)
    assert source.health_asked >= 12
