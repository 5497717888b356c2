"""Tries an avatar's networks: they must load, run on its own frames, and give what the services rely on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import crop_328, inner
from avatar_kit.onnx_io import encoder_io, network_io
from avatar_tools.onnx_sessions import open_session, run_session

_SILENCE_MEL = -4.0  # the mel spectrogram of digital silence
_TYPICAL_ROWS_MAX = 10.0  # an encoder's rows lie between 0 and about this
_SLACK = 1e-3  # a sigmoid in half precision may overshoot by a rounding


def try_network(avatar: Avatar, frames: tuple[int, ...]) -> tuple[list[str], list[str]]:
    """Problems and warnings from running the lip-sync network on those frames. Raises OnnxRuntimeMissing."""
    path = avatar.network_path
    try:
        ends = network_io(path)
        session = open_session(path, path.name)
        quiet = np.zeros((1, 32, 16, 16), np.float32)
        loud = np.random.default_rng(1).uniform(0, _TYPICAL_ROWS_MAX, quiet.shape).astype(np.float32)
        outputs = []
        for index in frames:
            visual = network_input(avatar, index)
            for audio in (quiet, loud):
                feeds = {ends.visual: visual, ends.audio: audio}
                outputs += run_session(session, path.name, _repeated(feeds, ends.batch), [ends.output])
    except BrokenAvatar as error:
        return list(error.problems), []
    problems = _output_problems(path, outputs, shape=(3, 320, 320))
    if not problems and any(out.min() < -_SLACK or out.max() > 1 + _SLACK for out in outputs):
        low, high = min(out.min() for out in outputs), max(out.max() for out in outputs)
        problems.append(f"{path.name}: gives values from {low:.3g} to {high:.3g}; expected 0 to 1")
    if problems or any(np.abs(one - other).max() * 255 >= 1 for one, other in zip(outputs[::2], outputs[1::2], strict=True)):
        return problems, []
    return [], [f"{path.name}: the mouth is the same whatever the sound"]


def try_encoder(path: Path) -> tuple[list[str], list[str]]:
    """Problems and warnings from running the audio encoder on silence and noise. Raises OnnxRuntimeMissing."""
    try:
        ends = encoder_io(path)
        session = open_session(path, path.name)
        noise = np.random.default_rng(2).uniform(-4, 4, (1, 1, 80, 16)).astype(np.float32)
        mels = (np.full_like(noise, _SILENCE_MEL), noise)
        outputs = [run_session(session, path.name, _repeated({ends.mel: mel}, ends.batch), [ends.rows])[0] for mel in mels]
    except BrokenAvatar as error:
        return list(error.problems), []
    problems = _output_problems(path, outputs, shape=(512,))
    if problems or not np.array_equal(outputs[0], outputs[1]):
        return problems, []
    return [], [f"{path.name}: gives the same row for silence and for noise"]


def network_input(avatar: Avatar, index: int) -> NDArray[np.float32]:
    """Returns what the network sees of a frame, float32 [1, 6, 320, 320], 0..1, BGR.

    That is the reference, which is the frame's own crop or a fixed one, and the frame's masked crop.
    """
    own = _crop(avatar, index)
    reference = own if avatar.reference_frame is None else _crop(avatar, avatar.reference_frame)
    return np.concatenate([reference, own * avatar.mask.kept()])[None]


def _crop(avatar: Avatar, index: int) -> NDArray[np.float32]:
    """[3, 320, 320], 0..1."""
    crop = inner(crop_328(avatar.read_frame(index), avatar.rects[index]))
    return crop.transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def _repeated(feeds: Mapping[str, NDArray[np.float32]], batch: int | None) -> dict[str, NDArray[np.float32]]:
    """The feeds repeated to a network's fixed batch size."""
    return {name: np.repeat(value, batch or 1, axis=0) for name, value in feeds.items()}


def _output_problems(path: Path, outputs: list[NDArray[np.float32]], *, shape: tuple[int, ...]) -> list[str]:
    for output in outputs:
        if output.shape[1:] != shape:
            return [f"{path.name}: gives the shape {list(output.shape)}; expected [N, {', '.join(map(str, shape))}]"]
        if not np.isfinite(output).all():
            return [f"{path.name}: gives values that are not finite numbers"]
    return []
