"""Duties of every source of mouths. Each source is before the same avatar and the same network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import Rect
from avatar_kit.writer import AvatarWriter
from compositing_service.metrics import CompositingMetrics
from compositing_service.mouth_source import (
    PICTURE_BYTES,
    WINDOW_BYTES,
    GrowingSound,
    MouthOrder,
    Mouths,
    MouthSource,
    Rows,
    RowsOrder,
    Sound,
    Speech,
    StoredFeatures,
    Windows,
)
from compositing_service.upstream.inference_client import InferenceClient
from inference_service.parts import inference_parts
from inference_service.service import inference_service
from inference_service.settings import InferenceSettings
from monolithic_service.mouth_source import LocalMouthSource
from service_kit import request_context
from service_kit.deadline import Deadline
from service_kit.errors import Aborted, DeadlineExceeded, FailedPrecondition, NotFound, ServiceError
from service_kit.life import RunningService
from service_kit.metrics import Metrics
from service_kit.readiness import Readiness
from service_kit.settings import load_settings
from shared_proto import inference_pb2

from ..inference_service.conftest import encoder, network, picture

FRAMES = [4, 2, 2, 0, 1, 3, 4]
PATIENCE_S = 60


@asynccontextmanager
async def client(models_root: Path) -> AsyncIterator[MouthSource]:
    """The client, before a real inference service on a real socket."""
    async with RunningService(inference_service(inference_settings(models_root))) as server:
        source = InferenceClient(
            [f"127.0.0.1:{server.address.port}"],
            timeout_s=PATIENCE_S,
            max_retries=0,
            max_frames=50,
            metrics=CompositingMetrics(Metrics()),
        )
        try:
            yield source
        finally:
            await source.close()


class OfASession:
    """Gives each order to the client as one of a live session, whose orders share a call."""

    def __init__(self, source: MouthSource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def mouths(self, wanted: MouthOrder, *, deadline: Deadline) -> AsyncGenerator[Mouths, None]:
        return self._source.mouths(replace(wanted, due_in_ms=wanted.due_in_ms or 40), deadline=deadline)


@asynccontextmanager
async def client_of_a_session(models_root: Path) -> AsyncIterator[MouthSource]:
    """The client as live sessions use it."""
    of_none = request_context.session_id.set("a-session")
    try:
        async with client(models_root) as source:
            yield OfASession(source)
    finally:
        request_context.session_id.reset(of_none)


@asynccontextmanager
async def local(models_root: Path) -> AsyncIterator[MouthSource]:
    """The parts of the inference service in this process."""
    settings = inference_settings(models_root)
    async with inference_parts(settings, Metrics(), on_lost=pytest.fail) as parts:
        yield LocalMouthSource(parts.runner, settings.limits, Readiness())


def inference_settings(models_root: Path, *overrides: str) -> InferenceSettings:
    return load_settings(
        InferenceSettings,
        config=None,
        environ={},
        overrides=[
            "server.port=127.0.0.1:0",
            "metrics.enabled=false",
            f"models_root={models_root}",
            "gpus.enabled=false",
            "batching.max_batch=3",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Avatar:
    """Five frames, a network whose answer depends on picture and sound, features of its clip; read only."""
    with AvatarWriter(tmp_path_factory.mktemp("models"), "someone", width=400, height=300) as writer:
        for index in range(5):
            writer.add_frame(picture(index), Rect(100 + index, 60, 280 + index, 240))
        writer.set_network(network().SerializeToString())
        writer.set_audio_encoder(encoder().SerializeToString())
        writer.set_features(np.frombuffer(floats(5 * 512, 7), "<f4").reshape(5, 512))
        return writer.finish()


@pytest.fixture(params=[client, client_of_a_session, local])
async def source(request: pytest.FixtureRequest, avatar: Avatar) -> AsyncIterator[MouthSource]:
    async with asyncio.timeout(2 * PATIENCE_S), request.param(avatar.root.parent) as source:
        yield source


def floats(count: int, seed: int) -> bytes:
    return np.random.default_rng(seed).uniform(0, 0.5, count).astype("<f4").tobytes()


SPEECHES = {
    "sound": Sound(floats(640 * 30, 1), lead_in_frames=3, start_frame=2),
    "16-bit sound at 24 kHz": Sound(
        np.random.default_rng(2).integers(-9000, 9000, 960 * 12, np.int16).astype("<i2").tobytes(),
        encoding=inference_pb2.PCM_INT16,
        sample_rate=24_000,
    ),
    "one window": Windows(floats(WINDOW_BYTES // 4, 3)),
    "a window a frame": Windows(floats(len(FRAMES) * WINDOW_BYTES // 4, 4)),
    "rows": Rows(floats((len(FRAMES) + 15) * 512, 5)),
    "stored features": StoredFeatures(),
    "growing sound": GrowingSound(floats(4 * 512, 5), Sound(floats(640 * 30, 1), lead_in_frames=-4, start_frame=7), 12),
    "growing sound with little look-ahead": GrowingSound(b"", Sound(floats(640 * 30, 1), lead_in_frames=3, start_frame=2), 7),
    "rows of a sound that grows no more": GrowingSound(floats((len(FRAMES) + 10) * 512, 5), Sound(b""), 7),
}
SOUND = SPEECHES["sound"]


def order(avatar: Avatar, speech: Speech = SOUND, **changes: Any) -> MouthOrder:
    return MouthOrder(**{"avatar_id": avatar.id, "avatar_version": avatar.version, "frames": FRAMES, "speech": speech} | changes)


async def groups(source: MouthSource, wanted: MouthOrder, *, seconds: float = PATIENCE_S) -> list[Mouths]:
    async with aclosing(source.mouths(wanted, deadline=Deadline.after(seconds))) as mouths:
        return [group async for group in mouths]


async def pixels(source: MouthSource, wanted: MouthOrder) -> np.ndarray:
    return np.stack(await each(source, wanted))


async def each(source: MouthSource, wanted: MouthOrder) -> list[np.ndarray]:
    return [mouth for group in await groups(source, wanted) for mouth in group.pixels]


@pytest.mark.parametrize("speech", SPEECHES.values(), ids=SPEECHES)
async def test_a_mouth_for_each_frame_and_a_tail_gives_the_same(source: MouthSource, avatar: Avatar, speech: Speech) -> None:
    whole = await pixels(source, order(avatar, speech))
    assert (whole.dtype, whole.shape) == (np.uint8, (len(FRAMES), 320, 320, 3))
    assert len({mouth.tobytes() for mouth in whole}) >= 4  # as many as there are different frames at least
    for first in (1, 4):
        np.testing.assert_array_equal(await pixels(source, order(avatar, speech).tail(first)), whole[first:])


@pytest.mark.parametrize("speech", SPEECHES.values(), ids=SPEECHES)
async def test_at_half_rate_every_second_mouth_comes_as_it_is(source: MouthSource, avatar: Avatar, speech: Speech) -> None:
    whole = await pixels(source, order(avatar, speech, fit=inference_pb2.FIT_CROP))
    halved = order(avatar, speech, fit=inference_pb2.FIT_CROP, rate=inference_pb2.MOUTH_RATE_HALVED)
    np.testing.assert_array_equal(await pixels(source, halved), whole[::2])
    np.testing.assert_array_equal(await pixels(source, halved.tail(1)), whole[2::2])


@pytest.mark.parametrize("count", [1, len(FRAMES)])
async def test_the_callers_own_pictures(source: MouthSource, avatar: Avatar, count: int) -> None:
    """They ask nothing of the avatar's frames."""
    wanted = order(avatar, pictures=floats(count * PICTURE_BYTES // 4, 6))
    whole = await pixels(source, wanted)
    np.testing.assert_array_equal(await pixels(source, order(avatar, pictures=wanted.pictures, frames=[0] * 7)), whole)
    np.testing.assert_array_equal(await pixels(source, wanted.tail(2)), whole[2:])
    assert not np.array_equal(whole, await pixels(source, order(avatar)))


@pytest.mark.parametrize("fit", [inference_pb2.FIT_CROP, inference_pb2.FIT_MOUTH])
async def test_mouths_in_the_size_of_their_rectangles(
    source: MouthSource, avatar: Avatar, fit: inference_pb2.MouthFit.ValueType
) -> None:
    expected = []
    for frame, mouth in zip(FRAMES, await pixels(source, order(avatar)), strict=True):
        enlarged = mouth
        if fit == inference_pb2.FIT_CROP:
            rect = avatar.rects[frame]
            enlarged = cv2.resize(
                avatar.read_frame(frame)[rect.y1 : rect.y2, rect.x1 : rect.x2], (328, 328), interpolation=cv2.INTER_CUBIC
            )
            enlarged[4:324, 4:324] = mouth
        expected.append(cv2.resize(enlarged, (180, 180), interpolation=cv2.INTER_CUBIC))
    fitted = order(avatar, fit=fit)
    np.testing.assert_array_equal(np.stack(await each(source, fitted)), np.stack(expected))
    np.testing.assert_array_equal(np.stack(await each(source, fitted.tail(3))), np.stack(expected[3:]))


async def test_own_pictures_give_mouths_of_full_size_whatever_is_asked_for(source: MouthSource, avatar: Avatar) -> None:
    wanted = order(avatar, pictures=floats(PICTURE_BYTES // 4, 6), fit=inference_pb2.FIT_CROP)
    assert (await pixels(source, wanted)).shape == (len(FRAMES), 320, 320, 3)


async def test_groups_say_what_they_took(source: MouthSource, avatar: Avatar) -> None:
    parts = await groups(source, order(avatar))
    assert len(parts) > 1
    for part in parts:
        assert part.inference_ms > 0
        assert part.audio_ms > 0
        assert part.queue_ms >= 0
        assert part.gpu_id == -1
        assert not any(mouth.flags.writeable for mouth in part.pixels)


async def test_rows_give_the_mouths_of_their_sound(source: MouthSource, avatar: Avatar) -> None:
    """Frame k reads rows k - 9 .. k + 6 of the sound's own frames."""
    first = SOUND.start_frame + SOUND.lead_in_frames - 9
    until = Deadline.after(PATIENCE_S)
    wanted = RowsOrder(avatar.id, avatar.version, SOUND, first_row=first, count=len(FRAMES) + 15)
    rows = await source.rows(wanted, deadline=until)
    assert len(rows.data) == (len(FRAMES) + 15) * 2048
    assert rows.audio_ms > 0
    np.testing.assert_array_equal(await pixels(source, order(avatar, rows)), await pixels(source, order(avatar)))
    parts = [await source.rows(replace(wanted, first_row=first + start, count=11), deadline=until) for start in (0, 11)]
    assert parts[0].data + parts[1].data == rows.data


async def test_rows_say_which_of_them_are_silent(source: MouthSource, avatar: Avatar) -> None:
    """Row j reads nothing after sample 640 j + 3400, and nothing before 640 j - 600."""
    begun = Sound(bytes(640 * 20 * 4) + floats(640 * 10, 1))
    until = Deadline.after(PATIENCE_S)
    wanted = RowsOrder(avatar.id, avatar.version, begun, first_row=-2, count=32, due_in_ms=40)
    rows = await source.rows(wanted, deadline=until)
    assert rows.silent == bytes(1 if row <= 14 else 0 for row in range(-2, 30))


@pytest.mark.parametrize("look_ahead", [6, 9, 12])
@pytest.mark.parametrize("known", [0, 1, 12, 30])
async def test_growing_sound_gives_its_new_rows_with_the_first_mouths(
    source: MouthSource, avatar: Avatar, look_ahead: int, known: int
) -> None:
    """Frame k reads row min(j, k + look_ahead - 6) in place of each row j; what is known is not computed again."""
    until, first = Deadline.after(PATIENCE_S), SOUND.start_frame + SOUND.lead_in_frames
    wanted = RowsOrder(avatar.id, avatar.version, SOUND, first_row=first - 9, count=len(FRAMES) + 15)
    whole = await source.rows(wanted, deadline=until)
    rows = np.frombuffer(whole.data, "<f4").reshape(-1, 512)
    count = len(FRAMES) + look_ahead + 3
    known = min(known, count)
    skipped = max(0, first - 9 + known - 1 - SOUND.start_frame)  # frames of sound that no unknown row reads
    sound = replace(SOUND, data=SOUND.data[skipped * 2560 :], lead_in_frames=3 - skipped, start_frame=2 + skipped)
    marked = rows[:known] + np.float32(1)  # so that one that is computed again is noticed
    growing = order(avatar, GrowingSound(marked.tobytes(), sound, look_ahead))
    parts = await groups(source, growing)
    windows = np.concatenate([marked, rows[known:]])[
        [[k + min(i, look_ahead + 3) for i in range(16)] for k in range(len(FRAMES))]
    ]
    expected = await pixels(source, order(avatar, Windows(windows.tobytes())))
    np.testing.assert_array_equal([mouth for part in parts for mouth in part.pixels], expected)
    assert all(part.rows is None for part in parts[1:])
    assert parts[0].rows
    assert parts[0].rows.data == rows[known:count].tobytes()
    assert parts[0].rows.silent == whole.silent[known:count]


def test_an_order_says_when_it_is_due_and_asks_for_a_place(avatar: Avatar) -> None:
    assert (order(avatar).message().due_in_ms, order(avatar).message().admission) == (0, inference_pb2.ADMITTED)
    wanted = order(avatar, due_in_ms=40, admission=inference_pb2.RESUMED_SESSION)
    for message in (wanted.message(), wanted.tail(3).message()):
        assert (message.due_in_ms, message.admission) == (40, inference_pb2.RESUMED_SESSION)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        pytest.param({"avatar_id": "nobody"}, NotFound, "nobody", id="unknown avatar"),
        pytest.param({"frames": [0, 5]}, FailedPrecondition, "different versions", id="a frame that it does not have"),
        pytest.param({"avatar_version": "another"}, Aborted, "replaced", id="another version"),
    ],
)
async def test_orders_that_cannot_be_met(
    source: MouthSource, avatar: Avatar, changes: dict[str, Any], error: type[ServiceError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await groups(source, order(avatar, **changes))
    assert await groups(source, order(avatar))


async def test_a_deadline_that_has_passed(source: MouthSource, avatar: Avatar) -> None:
    with pytest.raises(DeadlineExceeded):
        await groups(source, order(avatar), seconds=0.0)
    assert await groups(source, order(avatar))


async def test_an_order_may_be_given_up_at_any_time(source: MouthSource, avatar: Avatar) -> None:
    async with aclosing(source.mouths(order(avatar), deadline=Deadline.after(PATIENCE_S))) as mouths:
        await anext(mouths)
    waiting = [asyncio.create_task(groups(source, order(avatar))) for _ in range(5)]
    await asyncio.sleep(0)
    for task in waiting[1:]:
        task.cancel()
    assert await waiting[0]
    await asyncio.gather(*waiting[1:], return_exceptions=True)
    assert await groups(source, order(avatar))


async def test_loading_and_unloading(source: MouthSource, avatar: Avatar) -> None:
    until = Deadline.after(PATIENCE_S)
    for force_reload in (False, True):
        assert await source.load(avatar.id, force_reload=force_reload, deadline=until) == [None]
    assert await groups(source, order(avatar))
    assert await source.unload(avatar.id, deadline=until) == [None]
    (refusal,) = await source.load("nobody", force_reload=False, deadline=until)
    assert isinstance(refusal, NotFound)
    (refusal,) = await source.unload("nobody", deadline=until)
    assert isinstance(refusal, NotFound)


async def test_health(source: MouthSource) -> None:
    assert await source.healthy()
