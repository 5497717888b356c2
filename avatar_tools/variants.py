"""Makes variants of an avatar's network in fewer bits, and makes one of them the network that is served.

int8: some convolutions (`avatar_tools.int8`), with ranges of activations from inputs of the avatar's own. float16: weights and
values in half precision.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.limits import MAX_MODEL_BYTES
from avatar_kit.manifest import MANIFEST_NAME, FileEntry, manifest_text, read_manifest
from avatar_kit.onnx_files import load_model, runtime_reason
from avatar_kit.onnx_io import network_io
from avatar_kit.safe_files import sha256_of
from avatar_kit.writer import NETWORK_NAME
from avatar_tools.int8 import in_int8
from avatar_tools.network_trial import network_input
from avatar_tools.onnx_sessions import runtime

VariantPrecision: TypeAlias = Literal["float16", "int8"]


def variant_path(folder: Path, precision: VariantPrecision) -> Path:
    """Returns the place of a variant, beside the network in float32."""
    return folder / f"network.{precision}.onnx"


def float32_path(avatar: Avatar) -> Path:
    """Returns the network that variants are made of: the avatar's own, or the original of the variant that it serves."""
    variants = {variant_path(avatar.root, precision) for precision in ("float16", "int8")}
    return avatar.root / NETWORK_NAME if avatar.network_path in variants else avatar.network_path


def make_variant(
    avatar: Avatar, precision: VariantPrecision, frames: Sequence[int], windows: NDArray[np.float32]
) -> onnx.ModelProto:
    """Makes a variant of the network in float32. Takes a minute for int8 at full size.

    `frames`: pictures of the clip, `windows` float32 [len(frames), 16, 512]: what it is calibrated with.

    Raises BrokenAvatar for a network that cannot be converted, OnnxRuntimeMissing.
    """
    runtime("optimising")
    path = float32_path(avatar)
    io = network_io(path)
    feeds = [
        {
            io.visual: np.repeat(network_input(avatar, frame), io.batch or 1, axis=0),
            io.audio: np.repeat(window.reshape(1, 32, 16, 16), io.batch or 1, axis=0),
        }
        for frame, window in zip(frames, windows, strict=True)
    ]
    try:
        with warnings.catch_warnings(action="ignore"), _quiet():
            return _in_float16(path) if precision == "float16" else in_int8(path, feeds, io.output)
    except Exception as error:  # of many kinds
        raise BrokenAvatar(f"{path.name} cannot be converted to {precision}: {runtime_reason(error)}") from error


def serve_network(avatar: Avatar, path: Path) -> None:
    """Makes a file in the avatar's folder its network, by one rename of the manifest."""
    manifest = read_manifest(avatar.root)
    entry = FileEntry(path=path.relative_to(avatar.root).as_posix(), sha256=sha256_of(path, MAX_MODEL_BYTES))
    files = manifest.files.model_copy(update={"network": entry})
    place = avatar.root / MANIFEST_NAME
    partial = place.with_name(f".{MANIFEST_NAME}.{os.getpid()}.partial")
    try:
        partial.write_text(manifest_text(manifest.model_copy(update={"files": files})), encoding="utf-8")
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


def _in_float16(path: Path) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415  # heavy, and optional

    converted: onnx.ModelProto = convert_float_to_float16(load_model(path), keep_io_types=True)
    return converted


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the converters' advice to their own users out of the output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
