"""Trying an avatar's networks out: that they load, run on its own frames, and give what the services count on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import crop_328, inner
from avatar_kit.onnx_io import encoder_io, network_io

_SILENCE_MEL = -4.0  # what the mel spectrogram of digital silence is
_TYPICAL_ROWS_MAX = 10.0  # the rows that an encoder gives lie between 0 and about this
_SLACK = 1e-3  # a sigmoid in half precision may overshoot by a rounding


class TrialImpossible(Exception):
    """onnxruntime is not installed here."""


def try_network(avatar: Avatar, frames: tuple[int, ...]) -> tuple[list[str], list[str]]:
    """Problems and warnings from running the lip-sync network on those frames. Raises TrialImpossible."""
    path = avatar.network_path
    try:
        ends = network_io(path)
        session = _session(path)
        quiet = np.zeros((1, 32, 16, 16), np.float32)
        loud = np.random.default_rng(1).uniform(0, _TYPICAL_ROWS_MAX, quiet.shape).astype(np.float32)
        outputs = []
        for index in frames:
            visual = _network_input(avatar, index)
            for audio in (quiet, loud):
                feeds = {ends.visual: visual, ends.audio: audio}
                outputs.append(_run(path, session, ends.output, _repeated(feeds, ends.batch)))
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
    """Problems and warnings from running the audio encoder on silence and noise. Raises TrialImpossible."""
    try:
        ends = encoder_io(path)
        session = _session(path)
        noise = np.random.default_rng(2).uniform(-4, 4, (1, 1, 80, 16)).astype(np.float32)
        mels = (np.full_like(noise, _SILENCE_MEL), noise)
        outputs = [_run(path, session, ends.rows, _repeated({ends.mel: mel}, ends.batch)) for mel in mels]
    except BrokenAvatar as error:
        return list(error.problems), []
    problems = _output_problems(path, outputs, shape=(512,))
    if problems or not np.array_equal(outputs[0], outputs[1]):
        return problems, []
    return [], [f"{path.name}: gives the same row for silence and for noise"]


def _session(path: Path) -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the library is loaded
    try:
        import onnxruntime  # noqa: PLC0415  # heavy, and only verifying needs it
    except ImportError:
        raise TrialImpossible from None
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        raise BrokenAvatar(f"{path.name}: ONNX Runtime can not load it: {_reason(error, path)}") from None


def _run(path: Path, session: Any, output: str, feeds: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    try:
        return np.asarray(session.run([output], dict(feeds))[0])
    except Exception as error:
        raise BrokenAvatar(f"{path.name}: ONNX Runtime can not run it: {_reason(error, path)}") from None


def _reason(error: Exception, path: Path) -> str:
    """Its first line, without the folders of this machine."""
    return str(error).partition("\n")[0].replace(str(path), path.name)[:300]


def _network_input(avatar: Avatar, index: int) -> NDArray[np.float32]:
    """[1, 6, 320, 320]: the frame's crop, and the same masked; 0..1, BGR."""
    picture = inner(crop_328(avatar.read_frame(index), avatar.rects[index])).astype(np.float32) / 255
    seen = picture.transpose(2, 0, 1)
    return np.concatenate([seen, seen * avatar.mask.kept()])[None]


def _repeated(feeds: Mapping[str, NDArray[np.float32]], batch: int | None) -> dict[str, NDArray[np.float32]]:
    """The feeds as often as a network with a fixed batch size wants them."""
    return {name: np.repeat(value, batch or 1, axis=0) for name, value in feeds.items()}


def _output_problems(path: Path, outputs: list[NDArray[np.float32]], *, shape: tuple[int, ...]) -> list[str]:
    for output in outputs:
        if output.shape[1:] != shape:
            return [f"{path.name}: gives the shape {list(output.shape)}; expected [N, {', '.join(map(str, shape))}]"]
        if not np.isfinite(output).all():
            return [f"{path.name}: gives values that are not finite numbers"]
    return []
