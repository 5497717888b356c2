"""OpenVINO's own part: what it does not take, what it cannot be, and its memory."""

from __future__ import annotations

import sys

import pytest

from avatar_kit.errors import BrokenAvatar
from inference_service.engines import openvino_models
from inference_service.engines.devices import DeviceError

from ..end_to_end.avatars import looping_network
from ..inference_service.conftest import MakeAvatar
from .conftest import on_openvino

pytestmark = pytest.mark.skipif(not openvino_models.is_installed(), reason="OpenVINO is not installed")


def test_a_network_with_loops_is_refused_as_nothing_would_end_one(make_avatar: MakeAvatar) -> None:
    with pytest.raises(BrokenAvatar, match=r"^network.onnx: has Loop, which OpenVINO could not be stopped in"):
        on_openvino("float32")(make_avatar(model=looping_network(50)))


def test_openvino_that_is_not_installed_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    openvino_models.core.cache_clear()
    try:
        with pytest.raises(DeviceError, match=r"^OpenVINO is not installed, or cannot be loaded .*: install the extra \[cpu\]$"):
            openvino_models.core()
    finally:
        openvino_models.core.cache_clear()
