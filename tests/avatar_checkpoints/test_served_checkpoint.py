"""A checkpoint, converted and served, gives the frames that PyTorch gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from avatar_kit.checkpoints import convert_checkpoint  # noqa: E402
from avatar_kit.geometry import Rect  # noqa: E402
from avatar_kit.networks.random_weights import random_unet_weights  # noqa: E402
from avatar_kit.writer import AvatarWriter  # noqa: E402
from inference_service.devices import find_devices  # noqa: E402
from inference_service.engine import NO_PICTURES, Engine, EngineInput  # noqa: E402
from inference_service.settings import GpuSection, OnnxSection  # noqa: E402

RECT = Rect(100, 60, 285, 245)


def picture(index: int) -> bytes:
    noise = np.random.default_rng(index).integers(0, 255, (9, 12, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", cv2.resize(noise, (400, 300), interpolation=cv2.INTER_CUBIC))[1])


def network_input(data: bytes) -> NDArray[np.float32]:
    """[1, 6, 320, 320] as the research script makes it."""
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    crop = cv2.resize(whole[RECT.y1 : RECT.y2, RECT.x1 : RECT.x2], (328, 328), interpolation=cv2.INTER_CUBIC)[4:324, 4:324]
    masked = cv2.rectangle(crop.copy(), (5, 5, 310, 305), (0, 0, 0), -1)
    return np.concatenate([crop, masked], axis=2).transpose(2, 0, 1)[None].astype(np.float32) / 255.0


@pytest.mark.slow
def test_served_frames_are_torchs_within_one_grey_level(tmp_path: Path) -> None:
    from avatar_kit.checkpoints.modules import UNet

    state: dict[str, Any] = {key: torch.from_numpy(np.array(array)) for key, array in random_unet_weights(21).items()}
    (tmp_path / "checkpoint").mkdir()
    torch.save(state, tmp_path / "checkpoint" / "99.pth")
    converted = convert_checkpoint(tmp_path / "checkpoint" / "99.pth", kind="network")
    with AvatarWriter(tmp_path / "models", "someone", width=400, height=300) as writer:
        for index in range(3):
            writer.add_frame(picture(index), RECT)
        writer.set_network(converted.onnx)
        avatar = writer.finish()
    sound = np.maximum(np.random.default_rng(5).normal(0, 3, (2, 16, 512)), 0).astype(np.float32)

    engine = Engine(avatar, find_devices(GpuSection(enabled=False), OnnxSection())[0], OnnxSection())
    frames = [2, 0]
    engine.bank.ensure(frames)
    output = engine.run(EngineInput(sound, np.array(frames), NO_PICTURES, want_float=False, want_uint8=True))

    module = UNet()
    module.load_state_dict(state, strict=True)
    pictures = torch.from_numpy(np.concatenate([network_input(picture(index)) for index in frames]))
    with torch.inference_mode():
        mouths = module.eval()(pictures, torch.from_numpy(sound.reshape(2, 32, 16, 16))).numpy()
    expected = (mouths * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    assert output.mouths_uint8 is not None
    difference = np.abs(output.mouths_uint8.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert expected.std() > 10  # there is something to see
