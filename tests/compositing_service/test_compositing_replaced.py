"""Avatars whose files are replaced while they are loaded: a picture is of one version, whoever finds out about the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar, load_avatar
from avatar_kit.geometry import Paste, Rect
from avatar_kit.writer import AvatarWriter
from compositing_service.backgrounds.composer import open_composer
from shared_proto import compositing_pb2 as pb

from .conftest import Running
from .fake_inference import FRAMES, HEIGHT, WIDTH, FakeInference, colour, fine, refuse

Code = grpc.StatusCode
RAW = {"output_format": pb.FORMAT_RAW_BGR}
PATIENCE_S = 60


def other_rect(index: int) -> Rect:
    return Rect(10 + index, 20, 70 + index, 90)


def other_background(index: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1000 + index).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def replace(root: Path, *, frames: int = FRAMES + 2, seed: int = 0) -> Avatar:
    """Puts another avatar in the place of "demo": other pictures, other rectangles, another length."""
    with AvatarWriter(root, "demo", width=WIDTH, height=HEIGHT, paste=Paste.DIRECT, replace=True) as writer:
        for index in range(frames):
            writer.add_frame(cv2.imencode(".png", other_background(seed + index))[1].tobytes(), other_rect(index))
        writer.set_network(b"not looked at here either")
        return writer.finish()


def break_network(root: Path) -> None:
    """A manifest that cannot be read, as a copy under way may leave it."""
    replace(root)
    (root / "demo" / "avatar.yaml").write_text("format_version: 1\n")


def assert_all_of_the_new(reply: pb.CompositeBatchResponse, inference: FakeInference) -> None:
    """Its backgrounds, its rectangles, and mouths that were asked for with its version and for its frames."""
    request = inference.calls[-1].request
    for k, (frame, index) in enumerate(zip(reply.composited_frames, reply.frame_indices, strict=True)):
        picture, rect = other_background(index), other_rect(index)
        picture[rect.y1 : rect.y2, rect.x1 : rect.x2] = colour(request, k)
        np.testing.assert_array_equal(np.frombuffer(frame, np.uint8).reshape(HEIGHT, WIDTH, 3), picture)


def only_of(version: Callable[[], str]) -> Any:
    """Does as an inference service with one version of the avatar."""

    async def behave(request: Any, context: Any) -> Any:
        if request.avatar_version != version():
            await context.abort(Code.ABORTED, "the avatar's files were replaced")
        async for each in fine(request, context):
            yield each

    return behave


async def test_the_version_goes_with_every_request(service: Running, inference: FakeInference, models_root: Path) -> None:
    await service.composite()
    await service.composite(visual_frames=np.zeros((6, 320, 320), "<f4").tobytes())
    wanted = load_avatar(models_root / "demo").version
    assert [call.request.avatar_version for call in inference.calls] == [wanted, wanted]


async def test_a_frame_not_read_yet_is_of_the_new_avatar(service: Running, inference: FakeInference, models_root: Path) -> None:
    await service.composite(batch_size=2, **RAW)
    new = replace(models_root)
    reply = await service.composite(batch_size=7, **RAW)  # two of them were in memory, of the old one
    assert_all_of_the_new(reply, inference)
    assert list(reply.frame_indices) == [0, 1, 2, 3, 4, 5, 6]
    assert reply.model_loaded
    assert inference.calls[-1].request.avatar_version == new.version
    assert not (await service.composite(batch_size=7, **RAW)).model_loaded


async def test_it_may_know_in_the_middle(service: Running, inference: FakeInference, models_root: Path) -> None:
    """Half of the mouths are there already, and of no use any more."""
    await service.composite(batch_size=FRAMES, **RAW)
    replace(models_root)
    inference.script.extend([refuse(Code.UNAVAILABLE, after=4), refuse(Code.ABORTED)])
    reply = await service.composite(batch_size=7, **RAW)
    assert_all_of_the_new(reply, inference)
    assert inference.calls[-1].request.batch_size == 7


async def test_a_refusal_without_a_reason_here_is_passed_on(service: Running, inference: FakeInference) -> None:
    inference.script.append(refuse(Code.ABORTED, "the avatar's files were replaced: in its own words"))
    refusal = await service.refusal(service.composite())
    assert (refusal.code, refusal.message) == (Code.ABORTED, "the avatar's files were replaced: in its own words")
    assert len(inference.calls) == 1
    await service.composite()


async def test_it_is_tried_again_once(service: Running, inference: FakeInference, models_root: Path) -> None:
    await service.composite(batch_size=FRAMES, **RAW)
    replace(models_root)
    inference.script.extend([refuse(Code.ABORTED)] * 3)
    assert (await service.refusal(service.composite(batch_size=3, **RAW))).code is Code.ABORTED
    assert len(inference.calls) == 3


async def test_an_avatar_that_does_not_rest_is_aborted(service: Running, inference: FakeInference, models_root: Path) -> None:
    """Replaced again before the second try has read its frames."""
    await service.composite(batch_size=2, **RAW)
    swaps = 0

    async def swap(request: Any, context: Any) -> Any:
        nonlocal swaps
        swaps += 1
        replace(models_root, seed=swaps)
        async for each in fine(request, context):
            yield each

    inference.script.extend([swap, swap])
    refusal = await service.refusal(service.composite(batch_size=4, **RAW))
    assert refusal.code is Code.ABORTED
    assert "replaced" in refusal.message
    assert str(models_root) not in refusal.message


async def test_a_session_begins_with_the_new_files(service: Running, inference: FakeInference, models_root: Path) -> None:
    await service.composite()
    new = replace(models_root)
    inference.script.append(refuse(Code.ABORTED))
    session = service.stub.StreamComposite(timeout=PATIENCE_S)
    await session.write(pb.SessionRequest(config=pb.SessionConfig(model_id="demo")))
    assert (await session.read()).HasField("started")
    assert inference.calls[-1].request.avatar_version == new.version
    session.cancel()


async def test_a_session_is_switched_to_the_new_files(service: Running, inference: FakeInference, models_root: Path) -> None:
    session = service.stub.StreamComposite(timeout=PATIENCE_S)
    await session.write(pb.SessionRequest(config=pb.SessionConfig(model_id="demo", idle=pb.IDLE_STORED)))
    assert (await session.read()).HasField("started")
    new = replace(models_root)
    inference.script.append(refuse(Code.ABORTED))
    await session.write(pb.SessionRequest(switch_avatar=pb.SwitchAvatar(model_id="demo", start_frame_idx=3)))
    while (event := await session.read()).HasField("frames") or event.HasField("status"):
        pass
    assert event.HasField("avatar_switched")
    assert inference.calls[-1].request.avatar_version == new.version
    session.cancel()


async def test_a_session_is_refused_where_the_files_are_those_that_it_knows(service: Running, inference: FakeInference) -> None:
    await service.composite()
    inference.script.append(refuse(Code.ABORTED, "in its own words"))
    session = service.stub.StreamComposite(timeout=PATIENCE_S)
    await session.write(pb.SessionRequest(config=pb.SessionConfig(model_id="demo")))
    refusal = await service.refusal(session.read())
    assert (refusal.code, refusal.message) == (Code.ABORTED, "in its own words")


async def test_it_is_loaded_once_however_many_find_out(
    service: Running, inference: FakeInference, models_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.composite(batch_size=2, **RAW)
    new = replace(models_root)
    opened: list[str] = []

    def count(avatar: Avatar, **options: Any) -> Any:
        opened.append(avatar.version)
        return open_composer(avatar, **options)

    monkeypatch.setattr("compositing_service.backgrounds.store.open_composer", count)
    replies = await asyncio.gather(*(service.composite(batch_size=7, **RAW) for _ in range(12)))
    for reply in replies:
        assert_all_of_the_new(reply, inference)
    assert opened == [new.version]


async def test_a_request_under_way_is_not_disturbed(service: Running, inference: FakeInference, models_root: Path) -> None:
    """It has its frames in memory and its mouths come slowly; meanwhile others are served of the new avatar."""
    before = await service.composite(batch_size=4, **RAW)
    go_on = asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        await go_on.wait()
        async for each in fine(request, context):
            yield each

    inference.script.append(slow)
    inference.called.clear()
    under_way = asyncio.create_task(service.composite(batch_size=4, **RAW))
    await asyncio.wait_for(inference.called.wait(), PATIENCE_S)
    replace(models_root)
    assert_all_of_the_new(await service.composite(batch_size=7, **RAW), inference)
    go_on.set()
    assert list((await under_way).composited_frames) == list(before.composited_frames)


async def test_loading_reads_new_files_to_the_end(service: Running, inference: FakeInference, models_root: Path) -> None:
    """Two frames of the old avatar are in memory; a LoadModel, which reads the others, finds the new one."""
    await service.composite(batch_size=2)
    new = replace(models_root)
    reply = await service.stub.LoadModel(pb.LoadModelRequest(model_id="demo"), timeout=PATIENCE_S)
    assert reply.success
    assert_all_of_the_new(await service.composite(batch_size=7, **RAW), inference)
    assert inference.calls[-1].request.avatar_version == new.version
