"""Avatars that come, are replaced and go while services run: every request is answered of one version, byte for byte.

What the answer should be is asked of services that never saw anything but the new avatar.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import cv2
import grpc
import numpy as np
import pytest

from avatar_kit.geometry import Rect
from avatar_kit.writer import AvatarWriter
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from .avatars import HEIGHT, WIDTH, background, exact_encoder, exact_network, rect, slow_network, write_avatar
from .conftest import CALL_S, CHANNEL_OPTIONS
from .processes import Service, running, until

Code = grpc.StatusCode
FEATURES = np.random.default_rng(2).uniform(0, 6, 8192).astype("<f4").tobytes()
A_FRAMES, B_FRAMES = 12, 9


def other_rect(index: int) -> Rect:
    return Rect(30 + 2 * index, 40 + index, 30 + 2 * index + 150, 40 + index + 160)


def write_a(root: Path, avatar_id: str, **options: object) -> None:
    write_avatar(root, avatar_id, **{"frames": A_FRAMES, "rects": rect, **options})


def write_b(root: Path, avatar_id: str, **options: object) -> None:
    """Other pictures, other rectangles, another network, fewer frames."""
    network = exact_network(gain=0.0625)
    write_avatar(root, avatar_id, **{"frames": B_FRAMES, "seed": 70, "rects": other_rect, "network": network, **options})


def write_filmed(root: Path, avatar_id: str, video: Path) -> None:
    """Frames in a video that is kept, in the place of whatever is there."""
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(A_FRAMES):
            picture = cv2.imdecode(np.frombuffer(background(200 + index), np.uint8), cv2.IMREAD_COLOR)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    with AvatarWriter(root, avatar_id, width=WIDTH, height=HEIGHT, replace=True) as writer:
        writer.set_video(video, [rect(index) for index in range(A_FRAMES)])
        writer.set_network(exact_network().SerializeToString())
        writer.set_audio_encoder(exact_encoder().SerializeToString())
        writer.finish()


class Compositor:
    """One compositing service, and a connection to it."""

    def __init__(self, service: Service, stack: ExitStack) -> None:
        self.service = service
        channel = stack.enter_context(grpc.insecure_channel(service.address, CHANNEL_OPTIONS))
        self.stub = CompositingServiceStub(channel)

    def reply(self, model_id: str, first: int = 0, count: int = 3, **fields: object) -> pb.CompositeBatchResponse:
        request = pb.CompositeBatchRequest(
            model_id=model_id, start_frame_idx=first, batch_size=count, audio_features=FEATURES, **fields
        )
        return self.stub.InferBatchComposite(request, timeout=CALL_S)

    def frames(self, model_id: str, first: int = 0, count: int = 3, **fields: object) -> list[bytes]:
        return list(self.reply(model_id, first, count, **fields).composited_frames)

    def refusal(self, model_id: str, *args: int) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            self.frames(model_id, *args)
        return caught.value

    def load(self, model_id: str, *, force_reload: bool = False) -> None:
        assert self.stub.LoadModel(pb.LoadModelRequest(model_id=model_id, force_reload=force_reload), timeout=CALL_S).success

    def listed(self, model_id: str) -> pb.ModelInfo | None:
        models = self.stub.ListModels(pb.ListModelsRequest(), timeout=CALL_S).models
        return next((model for model in models if model.model_id == model_id), None)


class Fleet:
    """Two compositing services and one inference service over one folder."""

    def __init__(self, root: Path, logs: Path, stack: ExitStack) -> None:
        self.root = root
        models = f"models_root={root}"
        self.inference = stack.enter_context(running("inference", models, log=logs / "inference"))
        channel = stack.enter_context(grpc.insecure_channel(self.inference.address, CHANNEL_OPTIONS))
        self.mouths = InferenceServiceStub(channel)
        url = f"inference_server.url={self.inference.address}"
        self.one, self.two = (
            Compositor(stack.enter_context(running("compositing", models, url, log=logs / name)), stack)
            for name in ("one", "two")
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Services over a folder in which each test has avatars of its own."""
    root = tmp_path_factory.mktemp("changing")
    with ExitStack() as stack:
        yield Fleet(root, tmp_path_factory.mktemp("logs"), stack)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compositor]:
    """Services that never saw anything but B, and A under another name."""
    root, logs = tmp_path_factory.mktemp("fresh"), tmp_path_factory.mktemp("fresh_logs")
    write_a(root, "a")
    write_b(root, "b")
    models = f"models_root={root}"
    with ExitStack() as stack:
        inference = stack.enter_context(running("inference", models, log=logs / "inference"))
        url = f"inference_server.url={inference.address}"
        yield Compositor(stack.enter_context(running("compositing", models, url, log=logs / "compositing")), stack)


@pytest.fixture(scope="module")
def of_a(fresh: Compositor) -> Callable[..., list[bytes]]:
    return lambda *args, **fields: fresh.frames("a", *args, **fields)


@pytest.fixture(scope="module")
def of_b(fresh: Compositor) -> Callable[..., list[bytes]]:
    return lambda *args, **fields: fresh.frames("b", *args, **fields)


Frames = Callable[..., list[bytes]]


@pytest.mark.parametrize("fields", [{}, {"output_format": pb.FORMAT_RAW_BGR}, {"jpeg_quality": 90}])
def test_frames_not_read_yet_are_the_new_avatars(fleet: Fleet, of_a: Frames, of_b: Frames, fields: dict[str, int]) -> None:
    name = f"replaced-{len(fields)}-{next(iter(fields), '')}".replace("_", "-")
    write_a(fleet.root, name)
    assert fleet.one.frames(name, 0, 3, **fields) == of_a(0, 3, **fields)
    write_b(fleet.root, name, replace=True)
    assert fleet.one.frames(name, 2, 5, **fields) == of_b(2, 5, **fields)
    assert fleet.one.frames(name, 0, 20, **fields) == of_b(0, 20, **fields)
    assert fleet.two.frames(name, 0, 20, **fields) == of_b(0, 20, **fields)


def test_frames_in_memory_are_the_old_avatars_until_one_is_missing(fleet: Fleet, of_a: Frames, of_b: Frames) -> None:
    write_a(fleet.root, "in-memory")
    fleet.one.load("in-memory")
    assert fleet.one.frames("in-memory", 0, A_FRAMES) == of_a(0, A_FRAMES)
    write_b(fleet.root, "in-memory", replace=True)
    assert fleet.one.frames("in-memory", 0, A_FRAMES) == of_a(0, A_FRAMES)
    fleet.one.load("in-memory", force_reload=True)
    assert fleet.one.frames("in-memory", 0, A_FRAMES) == of_b(0, A_FRAMES)


def test_crops_that_the_inference_service_lacks_are_the_new_avatars_too(fleet: Fleet, of_a: Frames, of_b: Frames) -> None:
    """The compositing service has all frames of the old avatar in memory, the inference service the crops of some."""
    write_a(fleet.root, "half-read")
    fleet.one.load("half-read")
    assert fleet.one.frames("half-read", 0, 2) == of_a(0, 2)
    write_b(fleet.root, "half-read", replace=True)
    assert fleet.one.frames("half-read", 0, 2) == of_a(0, 2)
    assert fleet.one.frames("half-read", 1, 9) == of_b(1, 9)
    assert fleet.one.frames("half-read", 0, 2) == of_b(0, 2)


def test_a_reload_through_one_compositor_reaches_the_other(fleet: Fleet, of_a: Frames, of_b: Frames) -> None:
    """As through a load balancer: the other one has all its frames in memory, of the old avatar."""
    write_a(fleet.root, "balanced")
    for compositor in (fleet.one, fleet.two):
        compositor.load("balanced")
        assert compositor.frames("balanced", 0, A_FRAMES) == of_a(0, A_FRAMES)
    write_b(fleet.root, "balanced", replace=True)
    fleet.one.load("balanced", force_reload=True)
    reply = fleet.two.reply("balanced", 0, B_FRAMES)
    assert list(reply.composited_frames) == of_b(0, B_FRAMES)
    assert reply.model_loaded
    assert fleet.one.frames("balanced", 3, 8) == of_b(3, 8)
    assert not fleet.two.reply("balanced", 0, B_FRAMES).model_loaded


def test_back_and_forth_through_both(fleet: Fleet, of_a: Frames, of_b: Frames) -> None:
    write_a(fleet.root, "often")
    for turn in range(4):
        write, wanted = ((write_b, of_b), (write_a, of_a))[turn % 2]
        write(fleet.root, "often", replace=True)
        asked, reloaded = ((fleet.one, fleet.two), (fleet.two, fleet.one))[turn // 2]
        reloaded.load("often", force_reload=True)
        for compositor in (asked, reloaded):
            assert compositor.frames("often", turn, 7) == wanted(turn, 7)


@pytest.mark.slow
def test_a_request_under_way_ends_wholly_on_one(fleet: Fleet) -> None:
    """Its mouths take seconds; it has begun on A, all of whose frames are in memory, and B comes in their middle."""
    write_a(fleet.root, "slow", network=slow_network(layers=4))
    fleet.one.load("slow")
    wanted = fleet.one.frames("slow", 0, A_FRAMES)
    begun = fleet.inference.metric("lipsync_inference_frames_total")
    made: list[list[bytes]] = []
    caller = threading.Thread(target=lambda: made.append(fleet.one.frames("slow", 0, A_FRAMES)))
    caller.start()
    until(lambda: fleet.inference.metric("lipsync_inference_frames_total") > begun)
    assert not made
    write_b(fleet.root, "slow", network=slow_network(layers=4), replace=True)
    fleet.two.load("slow", force_reload=True)
    caller.join(CALL_S)
    assert made == [wanted]
    assert fleet.one.frames("slow", 0, 2) == fleet.two.frames("slow", 0, 2) != wanted[:2]


@pytest.mark.slow
def test_many_callers_during_swaps_see_whole_answers_only(fleet: Fleet, of_a: Frames, of_b: Frames) -> None:
    """Both services are asked without a pause while the avatar is replaced again and again."""
    write_a(fleet.root, "busy")
    whole = {first: (of_a(first, 6), of_b(first, 6)) for first in range(4)}
    stop, seen, failures = threading.Event(), set(), []

    def ask(compositor: Compositor) -> None:
        turn = 0
        while not stop.is_set():
            first = turn = (turn + 1) % 4
            try:
                frames = compositor.frames("busy", first, 6)
            except grpc.RpcError as error:
                if error.code() is not Code.ABORTED:
                    failures.append(error)
                continue
            if frames not in whole[first]:
                failures.append(AssertionError("a mixture"))
            else:
                seen.add(whole[first].index(frames))

    callers = [threading.Thread(target=ask, args=[compositor]) for compositor in (fleet.one, fleet.two) * 2]
    for caller in callers:
        caller.start()
    missed = []
    for turn in range(6):
        newest = (turn + 1) % 2
        (write_a, write_b)[newest](fleet.root, "busy", replace=True)
        (fleet.one, fleet.two)[turn % 2].load("busy", force_reload=True)
        seen.clear()
        until = time.monotonic() + CALL_S
        while newest not in seen and not failures and time.monotonic() < until:
            stop.wait(0.02)
        if newest not in seen:
            missed.append(turn)
    stop.set()
    for caller in callers:
        caller.join(CALL_S)
    assert not failures
    assert not missed, "turns after which no answer was of the newest files"
    for compositor in (fleet.one, fleet.two):
        compositor.load("busy", force_reload=True)
        assert compositor.frames("busy", 0, 6) == of_a(0, 6)


def test_an_old_client_of_the_inference_service_gets_what_is_loaded(fleet: Fleet, of_b: Frames) -> None:
    write_a(fleet.root, "direct")
    request = inference_pb2.InferBatchRequest(model_id="direct", batch_size=2, audio_features=FEATURES)
    before = fleet.mouths.InferBatch(request, timeout=CALL_S).outputs
    write_b(fleet.root, "direct", replace=True)
    assert fleet.mouths.InferBatch(request, timeout=CALL_S).outputs == before
    request.batch_size = 5  # crops that are not there yet
    after = fleet.mouths.InferBatch(request, timeout=CALL_S).outputs
    assert after[0] != before[0]
    assert fleet.one.frames("direct", 0, 5) == of_b(0, 5)


def test_broken_new_files_leave_the_old_avatar(fleet: Fleet, of_a: Frames, of_b: Frames) -> None:
    write_a(fleet.root, "mended")
    assert fleet.one.frames("mended", 0, 3) == of_a(0, 3)
    write_b(fleet.root, "mended", replace=True)
    manifest = fleet.root / "mended" / "avatar.yaml"
    whole = manifest.read_bytes()
    manifest.write_bytes(b"\x00")
    error = fleet.one.refusal("mended", 0, 9)
    assert error.code() is Code.ABORTED
    assert "replaced" in error.details()
    assert "avatar.yaml" in error.details()
    assert str(fleet.root) not in error.details()
    assert fleet.one.frames("mended", 0, 3) == of_a(0, 3)
    info = fleet.one.listed("mended")
    assert info
    assert info.loaded
    assert "avatar.yaml" in info.error
    manifest.write_bytes(whole)
    assert fleet.one.frames("mended", 0, 9) == of_b(0, 9)
    info = fleet.one.listed("mended")
    assert info
    assert not info.error


def test_a_new_network_that_can_not_be_loaded(fleet: Fleet, of_a: Frames) -> None:
    """Here the compositing service can read all of B, and the inference service can not."""
    write_a(fleet.root, "no-network")
    assert fleet.one.frames("no-network", 0, 3) == of_a(0, 3)
    write_b(fleet.root, "no-network", replace=True, network=b"no network")
    error = fleet.one.refusal("no-network", 0, 9)
    assert error.code() in (Code.ABORTED, Code.FAILED_PRECONDITION)
    assert error.details()
    write_a(fleet.root, "no-network", replace=True)
    assert fleet.one.frames("no-network", 0, 9) == of_a(0, 9)


def test_an_avatar_comes_goes_and_comes_again(fleet: Fleet, of_a: Frames, of_b: Frames) -> None:
    assert fleet.one.listed("guest") is None
    assert fleet.one.refusal("guest").code() is Code.NOT_FOUND
    write_a(fleet.root, "guest")
    info = fleet.one.listed("guest")
    assert info
    assert (info.frame_count, info.width, info.height, info.error) == (A_FRAMES, WIDTH, HEIGHT, "")
    assert "guest" in {model.model_id for model in fleet.mouths.ListModels(inference_pb2.ListModelsRequest()).models}
    for compositor in (fleet.one, fleet.two):
        assert compositor.frames("guest", 0, 4) == of_a(0, 4)
    shutil.rmtree(fleet.root / "guest")
    assert fleet.one.listed("guest") is None
    assert fleet.one.refusal("guest", 0, 9).code() is Code.ABORTED, "what is in memory is not all of it"
    assert fleet.one.frames("guest", 0, 4) == of_a(0, 4)
    assert fleet.one.stub.UnloadModel(pb.UnloadModelRequest(model_id="guest"), timeout=CALL_S).success
    assert fleet.one.refusal("guest").code() is Code.NOT_FOUND
    write_b(fleet.root, "guest")
    for compositor in (fleet.one, fleet.two):  # the second still has the first guest's frames in memory
        assert compositor.frames("guest", 0, 4) == of_b(0, 4)


def test_an_avatar_in_a_video_is_replaced_and_replaces(fleet: Fleet, of_b: Frames, tmp_path: Path) -> None:
    """Its frames are all decoded at once, ahead of need: by when is not told, so either version is right until a reload."""
    write_filmed(fleet.root, "filmed", tmp_path / "film.mp4")
    film = fleet.two.frames("filmed", 0, 9)
    assert fleet.one.frames("filmed", 0, 2) == film[:2]
    for turn, wanted in enumerate([of_b(0, 9), film]):
        if turn:
            write_filmed(fleet.root, "filmed", tmp_path / "film.mp4")
        else:
            write_b(fleet.root, "filmed", replace=True)
        for compositor in (fleet.one, fleet.two):
            assert compositor.frames("filmed", 0, 9) in (of_b(0, 9), film)
        fleet.two.load("filmed", force_reload=True)
        for compositor in (fleet.one, fleet.two):
            assert compositor.frames("filmed", 0, 9) == wanted


def test_a_link_turned_to_another_folder(fleet: Fleet, of_a: Frames, of_b: Frames) -> None:
    """The other usual way to replace something in one step. The first edition is still there, so it can be served to the end."""
    write_a(fleet.root, "first-edition")
    write_b(fleet.root, "second-edition")
    link, new = fleet.root / "linked", fleet.root / ".linked.new"
    link.symlink_to("first-edition")
    assert fleet.one.frames("linked", 0, 3) == of_a(0, 3)
    new.symlink_to("second-edition")
    new.rename(link)
    assert fleet.one.frames("linked", 0, 9) == of_a(0, 9)
    fleet.one.load("linked", force_reload=True)
    for compositor in (fleet.one, fleet.two):
        assert compositor.frames("linked", 0, 9) == of_b(0, 9)
