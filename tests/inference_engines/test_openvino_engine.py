"""OpenVINO's own part: what it does not take, what it cannot be, and its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from avatar_kit.errors import BrokenAvatar
from inference_service.engines import openvino_models
from inference_service.engines.devices import DeviceError

from ..end_to_end.avatars import looping_network
from ..inference_service.conftest import MakeAvatar
from .conftest import on_openvino


def forget_openvino() -> None:
    openvino_models.core.cache_clear()
    openvino_models._openvino.cache_clear()


pytestmark = pytest.mark.skipif(not openvino_models.is_installed(), reason="OpenVINO is not installed")


def test_a_network_with_loops_is_refused_as_nothing_would_end_one(make_avatar: MakeAvatar) -> None:
    with pytest.raises(BrokenAvatar, match=r"^network.onnx: has Loop, which OpenVINO could not be stopped in"):
        on_openvino("float32")(make_avatar(model=looping_network(50)))


WATCHED = """
import sys, time
seen = []
words = ("os.fork", "os.posix_spawn", "os.system", "subprocess.Popen", "socket.", "urllib.")
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(words) else None)
from inference_service.engines import openvino_models
assert "CPU" in openvino_models.core().available_devices
time.sleep(0.5)
print([name for name in sys.modules if "telemetry" in name or ".ovc" in name], seen)
"""


def test_openvino_calls_nobody_and_forks_nothing() -> None:
    """Its converter of models reports each import, by a process that it forks."""
    output = subprocess.run([sys.executable, "-c", WATCHED], check=True, capture_output=True, text=True, timeout=60)
    assert output.stdout.split("\n")[-2] == "[] []", output.stdout


def test_openvino_that_is_not_installed_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    forget_openvino()
    try:
        with pytest.raises(DeviceError, match=r"^OpenVINO is not installed, or cannot be loaded .*: install the extra \[cpu\]$"):
            openvino_models.core()
    finally:
        forget_openvino()
