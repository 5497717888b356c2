"""Checkpoints with the published keys, imported from the research layout and served by both services: the mouths are PyTorch's.

The networks are written in PyTorch from the published tables, the sound's spectrum is librosa's, the pictures are cut out with
OpenCV: nothing of ours has a part in what is expected.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from shared_proto import compositing_pb2, inference_pb2

from ..published_networks import Unet, as_if_trained, encoder, torch
from . import reference
from .conftest import CALL_S, PATIENT, SAMPLES_A_FRAME, Duo, serving
from .processes import TREE

pytestmark = [pytest.mark.torch, pytest.mark.slow]

WIDTH, HEIGHT, FRAMES = 480, 400, 3
AVATAR = "ada"


def square(index: int) -> tuple[int, int, int]:
    """Left, top, side. In frame 0 of the crop's own size, so that the mouth lies in the picture pixel by pixel."""
    return (70, 40, 328) if index == 0 else (140 + index, 90, 180 + index)


def picture(index: int) -> bytes:
    noise = np.random.default_rng(index).integers(0, 255, (10, 12, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def background(index: int) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(picture(index), np.uint8), cv2.IMREAD_COLOR)


def network_input(index: int) -> np.ndarray:
    """[6, 320, 320] as the research script makes it."""
    left, top, side = square(index)
    crop = background(index)[top : top + side, left : left + side]
    inner = cv2.resize(crop, (328, 328), interpolation=cv2.INTER_CUBIC)[4:324, 4:324]
    masked = cv2.rectangle(inner.copy(), (5, 5, 310, 305), (0, 0, 0), -1)
    return np.concatenate([inner, masked], axis=2).transpose(2, 0, 1).astype(np.float32) / 255.0


@dataclass(frozen=True)
class Trained:
    """The two networks in PyTorch, a sound, and the mouths that they make of it for the avatar's frames in order."""

    unet: Any
    encoder: Any
    sound: np.ndarray
    mouths: np.ndarray


@pytest.fixture(scope="module")
def trained(speech: np.ndarray) -> Trained:
    sound = speech[: 20 * SAMPLES_A_FRAME]
    windows = torch.from_numpy(reference.mel_windows(sound, -9, FRAMES + 15))
    hearing = as_if_trained(encoder, windows, seed=3)
    pictures = torch.from_numpy(np.stack([network_input(index) for index in range(FRAMES)]))
    with torch.inference_mode():
        rows = hearing(windows).reshape(-1, 512)
        heard = torch.stack([rows[frame : frame + 16].reshape(32, 16, 16) for frame in range(FRAMES)])
        unet = as_if_trained(Unet, pictures, heard, seed=4)
        outputs = unet(pictures, heard).numpy()
    mouths = (outputs * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    assert mouths.std() > 10, "there is something to see"
    return Trained(unet, hearing, sound, mouths)


def write_research_tree(root: Path, trained: Trained) -> Path:
    """dataset/ada, checkpoint/ada and model/checkpoints; returns the first. One checkpoint is plain, one wrapped and prefixed."""
    folder = root / "dataset" / "ada"
    for place in (folder / "full_body_img", folder / "landmarks", root / "checkpoint" / "ada", root / "model" / "checkpoints"):
        place.mkdir(parents=True)
    for index in range(FRAMES):
        (folder / "full_body_img" / f"{index}.jpg").write_bytes(picture(index))
        left, top, side = square(index)
        points = np.full((110, 2), 200)
        points[1, 0], points[31, 0], points[52, 1] = left, left + side, top
        (folder / "landmarks" / f"{index}.lms").write_text("".join(f"{x} {y}\n" for x, y in points))
    parallel = {f"module.{key}": value for key, value in trained.unet.state_dict().items()}
    torch.save({"model_state_dict": parallel, "epoch": 99, "loss": 0.25}, root / "checkpoint" / "ada" / "99.pth")
    (root / "checkpoint" / "ada" / "9.pth").write_bytes(b"of an earlier epoch")
    torch.save(trained.encoder.state_dict(), root / "model" / "checkpoints" / "audio_visual_encoder.pth")
    return folder


@pytest.fixture(scope="module")
def served(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    """The avatar, imported by the command line, before both services."""
    place = tmp_path_factory.mktemp("published")
    models_root = place / "models"
    source = write_research_tree(place / "research", trained)
    command = ["avatar", "import", source, "--id", AVATAR, "--models-root", models_root]
    ended = subprocess.run([sys.executable, "-m", "lipsync_cli", *command], cwd=TREE, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "99.pth: converted to ONNX, 12,186,935 parameters, differs from PyTorch by at most" in ended.stdout
    assert "audio_visual_encoder.pth: converted to ONNX, 2,812,672 parameters" in ended.stdout
    own_encoder = f"audio_encoder_path={models_root / 'none.onnx'}"
    with serving(models_root, place, inference=[own_encoder], compositing=[PATIENT]) as both:
        yield both


def assert_within_one_level(made: np.ndarray, wanted: np.ndarray) -> None:
    off = np.abs(made.astype(int) - wanted)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.03, "as many as rounding explains: random networks are sharper than trained ones"


def test_mouths_and_frames_are_pytorchs_within_one_grey_level(served: Duo, trained: Trained) -> None:
    """In one test, so that two workers do not both import the avatar."""
    assert_mouths(served, trained)
    assert_frames(served, trained)


def assert_mouths(served: Duo, trained: Trained) -> None:
    request = inference_pb2.InferBatchRequest(
        model_id=AVATAR, raw_audio=trained.sound.tobytes(), batch_size=FRAMES, mouth_format=inference_pb2.UINT8_BGR
    )
    reply = served.mouths.InferBatch(request, timeout=CALL_S)
    made = np.stack([np.frombuffer(each.data, np.uint8) for each in reply.outputs])
    assert_within_one_level(made.reshape(FRAMES, 320, 320, 3), trained.mouths)


def assert_frames(served: Duo, trained: Trained) -> None:
    """A mouth that is made smaller by bicubic interpolation may differ by one level more, as its weights reach over 1."""
    request = compositing_pb2.CompositeBatchRequest(
        model_id=AVATAR,
        raw_audio=trained.sound.tobytes(),
        batch_size=FRAMES,
        output_format=compositing_pb2.FORMAT_RAW_BGR,
    )
    reply = served.pictures.InferBatchComposite(request, timeout=CALL_S)
    assert list(reply.frame_indices) == list(range(FRAMES))
    for index, data in enumerate(reply.composited_frames):
        made = np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH, 3)
        left, top, side = square(index)
        wanted = background(index)
        crop = cv2.resize(wanted[top : top + side, left : left + side], (328, 328), interpolation=cv2.INTER_CUBIC)
        crop[4:324, 4:324] = trained.mouths[index]
        pasted = cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC)
        wanted[top : top + side, left : left + side] = pasted
        off = np.abs(made.astype(int) - wanted)
        assert off.max() <= (1 if side == 328 else 2)
        assert (off > 0).mean() < 0.03, "as many as rounding explains: random networks are sharper than trained ones"
        assert np.array_equal(pasted[4:324, 4:324], trained.mouths[index]) == (side == 328)
