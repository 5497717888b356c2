"""Both services as processes, started once, before avatars that are small and exact, drawn, or broken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import Mask, Paste
from avatar_kit.timeline import FrameRange, IdleMouth, Loop
from avatar_tools.demo import build_demo
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from ..sounds import speechlike
from .avatars import exact_network, wide_rect, write_avatar, write_broken_avatars
from .processes import Service, running, running_all

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 200 << 20),
    ("grpc.max_send_message_length", 200 << 20),
    ("grpc.enable_retries", 0),
)
CALL_S = 60
PATIENT = "inference_server.timeout_seconds=60"
SAMPLES_A_FRAME = 640


@dataclass(frozen=True)
class Duo:
    """The two services and a connection to each."""

    inference: Service
    compositing: Service
    mouths: InferenceServiceStub
    pictures: CompositingServiceStub
    to_inference: grpc.Channel
    to_compositing: grpc.Channel


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small avatars, whole and broken; read only."""
    root = tmp_path_factory.mktemp("models")
    write_avatar(root, "small")
    write_avatar(root, "other", seed=50, frames=3)
    write_avatar(root, "forward", loop=Loop.FORWARD, frames=7)
    write_avatar(root, "feather", paste=Paste.FEATHER)
    write_avatar(root, "direct", paste=Paste.DIRECT)
    write_avatar(root, "masked", mask=Mask(5, 5, 310, 315))
    write_avatar(root, "fixed", reference_frame=3, idle=FrameRange(1, 3))
    write_avatar(root, "wide", rects=wide_rect)
    write_avatar(root, "calm", idle=FrameRange(1, 3), idle_mouth=IdleMouth.STORED)
    write_avatar(root, "calm-wide", rects=wide_rect, idle_mouth=IdleMouth.STORED)
    write_avatar(root, "static", network=exact_network(batch=1))
    write_broken_avatars(root)
    return root


@pytest.fixture(scope="session")
def demo(models_root: Path) -> Avatar:
    """The drawn person, in `models_root` under the id "demo"."""
    return build_demo(models_root)


@pytest.fixture(scope="session")
def duo(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    """Shared by all tests that only ask. In float32, as their judges compute."""
    settings = f"audio_encoder_path={models_root / 'none.onnx'}", "precision=float32"
    with serving(models_root, tmp_path_factory.mktemp("logs"), inference=settings, compositing=[PATIENT]) as both:
        yield both


@pytest.fixture(scope="session")
def solo(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    """Both halves in one process, before the same avatars; shared as `duo` is."""
    overrides = f"models_root={models_root}", f"audio_encoder_path={models_root / 'none.onnx'}", "precision=float32"
    with (
        running_all(*overrides, log=tmp_path_factory.mktemp("solo") / "all") as (compositing, inference, _),
        connected(inference, compositing) as both,
    ):
        yield both


@contextmanager
def serving(
    models_root: Path, logs: Path, *settings: str, inference: Iterable[str] = (), compositing: Iterable[str] = ()
) -> Iterator[Duo]:
    """Both services before a folder of avatars; `settings` are for both, the others for one. Their logs go to `logs`."""
    common = f"models_root={models_root}", *settings
    with running("inference", *common, *inference, log=logs / "inference") as first:
        url = f"inference_server.url={first.address}"
        with (
            running("compositing", *common, url, *compositing, log=logs / "compositing") as second,
            connected(first, second) as both,
        ):
            yield both


class connected:  # noqa: N801 - used as a function
    """Connections to a pair of services for the length of a block."""

    def __init__(self, inference: Service, compositing: Service) -> None:
        self._services = inference, compositing
        self._channels = [grpc.insecure_channel(service.address, CHANNEL_OPTIONS) for service in self._services]

    def __enter__(self) -> Duo:
        to_inference, to_compositing = self._channels
        stubs = InferenceServiceStub(to_inference), CompositingServiceStub(to_compositing)
        return Duo(*self._services, *stubs, *self._channels)

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Six seconds that sound a little like speech: float32 [samples] at 16 kHz."""
    return speechlike(6)
