"""The engines that the service may run networks with, one line each in ENGINES: all pass the same tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from inference_service.engines.devices import find_devices
from inference_service.engines.engine import NO_PICTURES, Engine, EngineInput, EngineOutput
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.engines.openvino import OpenVinoEngine
from inference_service.engines.openvino_models import Precision, is_installed, processor_has_bfloat16
from inference_service.settings import GpuSection, OnnxSection

from ..end_to_end.avatars import looping_network, slow_network
from ..inference_service.conftest import make_avatar, network  # noqa: F401 - a fixture

CPU = find_devices(GpuSection(enabled=False), OnnxSection())[0]
OPTIONS = OnnxSection(intra_op_threads=1)
SHARING = OnnxSection(intra_op_threads=1, share_sessions=True)
SHARED_ON_CPU = SharedSessions(SHARING)
SHARED_ON_GPU = SharedSessions(OnnxSection())


@dataclass(frozen=True)
class Kind:
    """A kind of engine: how it is opened, and how far its mouths may be from the network's exact values."""

    open: Callable[[Avatar], Engine]
    tolerance: float
    lasting: onnx.ModelProto = field(default_factory=partial(looping_network, 50), repr=False)
    """A network that takes long where the sound is loud."""


def on_cpu(avatar: Avatar) -> Engine:
    return OnnxEngine(avatar, CPU, OPTIONS)


def on_openvino(precision: Precision) -> Callable[[Avatar], Engine]:
    return lambda avatar: OpenVinoEngine(avatar, CPU, OPTIONS, precision=precision)


def sharing_on_cpu(avatar: Avatar) -> Engine:
    """Its sessions are those of all avatars in the tests whose graphs are equal."""
    return OnnxEngine(avatar, CPU, SHARING, shared=SHARED_ON_CPU)


def on_gpu(avatar: Avatar) -> Engine:
    return OnnxEngine(avatar, find_devices(GpuSection(enabled=True), OnnxSection())[0], OnnxSection())


def sharing_on_gpu(avatar: Avatar) -> Engine:
    device = find_devices(GpuSection(enabled=True), OnnxSection())[0]
    return OnnxEngine(avatar, device, OnnxSection(), shared=SHARED_ON_GPU)


ENGINES = [
    pytest.param(Kind(on_cpu, 2e-6), id="ONNX Runtime on the CPU"),
    pytest.param(Kind(sharing_on_cpu, 2e-6), id="ONNX Runtime on the CPU, sessions shared"),
    pytest.param(
        Kind(on_openvino("float32"), 2e-6, slow_network(layers=24)),
        id="OpenVINO in float32",
        marks=pytest.mark.skipif(not is_installed(), reason="OpenVINO is not installed"),
    ),
    pytest.param(
        Kind(on_openvino("bfloat16"), 2e-2, slow_network(layers=24)),
        id="OpenVINO in bfloat16",
        marks=pytest.mark.skipif(not is_installed() or not processor_has_bfloat16(), reason="no bfloat16 here"),
    ),
    pytest.param(Kind(on_gpu, 1e-3), id="ONNX Runtime on a GPU", marks=pytest.mark.gpu),
    pytest.param(Kind(sharing_on_gpu, 1e-3), id="ONNX Runtime on a GPU, sessions shared", marks=pytest.mark.gpu),
]


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


def crop(avatar: Avatar, frame: int) -> NDArray[np.uint8]:
    """[320, 320, 3]: the rectangle at 328 x 328, without its margin."""
    rect = avatar.rects[frame]
    part = cv2.imread(str(avatar.frame_paths[frame]))[rect.y1 : rect.y2, rect.x1 : rect.x2]
    return cv2.resize(part, (328, 328), interpolation=cv2.INTER_CUBIC)[4:324, 4:324]


def network_input(
    avatar: Avatar, frame: int, *, reference: int | None = None, mask: tuple[int, int, int, int] = (5, 5, 310, 305)
) -> NDArray[np.float32]:
    """[6, 320, 320] by the research script: the reference's crop (None: the frame's own), and the frame's with a black mask."""
    masked = cv2.rectangle(crop(avatar, frame).copy(), mask, (0, 0, 0), -1)
    seen = crop(avatar, frame if reference is None else reference)
    return np.concatenate([image.transpose(2, 0, 1).astype(np.float32) / 255 for image in (seen, masked)])


def windows(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 4, (count, 16, 512)).astype(np.float32)


def linear_network() -> onnx.ModelProto:
    """The small network without its sigmoid: values on both sides of 0..1."""
    model = network()
    sigmoid = model.graph.node.pop()
    model.graph.node[-1].output[0] = sigmoid.output[0]
    return model


def run(
    engine: Engine, frames: list[int], sound: NDArray[np.float32], sent: NDArray[np.float32] = NO_PICTURES
) -> tuple[NDArray[np.float32], EngineOutput]:
    """The mouths as floats, of which the pixels are checked, and all of the output."""
    engine.bank.ensure(frames)
    output = engine.run(EngineInput(sound, np.array(frames, np.int64), sent, want_float=True, want_uint8=True))
    assert output.mouths_float is not None
    assert output.mouths_uint8 is not None
    truncated = np.clip(output.mouths_float * np.float32(255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(output.mouths_uint8, truncated)
    return output.mouths_float, output
