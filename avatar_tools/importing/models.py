"""The networks of an import: checks ONNX files by shape and frees them from a fixed batch size, and converts checkpoints."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_files import has_side_files, load_model
from avatar_kit.onnx_io import encoder_io, network_io
from avatar_kit.safe_files import FileProblem, check_regular, stays_in
from avatar_tools.checkpoints import Kind, checkpoint_kind, convert_checkpoint
from avatar_tools.checkpoints.kinds import NAMES
from avatar_tools.importing.batch_freeing import freed
from avatar_tools.onnx_sessions import OnnxRuntimeMissing, open_session

CHECKPOINT_SUFFIXES = frozenset({".pth", ".pt"})

_BINDINGS: dict[Kind, Callable[..., Any]] = {"network": network_io, "audio_encoder": encoder_io}
_NUMBERED = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A network to import. `batch`: the fixed batch size of an ONNX file; None when it is open, or not yet known."""

    path: Path
    kind: Kind
    is_checkpoint: bool
    batch: int | None = None
    producer: str = ""
    """The program that wrote an ONNX file; empty when the file does not name it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network for the avatar, as bytes or as an unchanged file, and a sentence about the preparation."""

    content: bytes | Path
    note: str


def open_model(path: Path, kind: Kind) -> ModelSource:
    """Checks an ONNX file's shapes, or the names of a checkpoint's weights. Raises BrokenAvatar."""
    try:
        check_regular(path)
    except FileProblem as problem:
        raise BrokenAvatar(problem.of(path.name)) from None
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        if (held := checkpoint_kind(path)) != kind:
            raise BrokenAvatar(f"{path.name} holds {NAMES[held]}, where {NAMES[kind]} is wanted")
        return ModelSource(path, kind, is_checkpoint=True)
    if path.suffix.lower() != ".onnx":
        raise BrokenAvatar(f"{path.name} is neither an ONNX file (.onnx) nor a PyTorch checkpoint (.pth)")
    producer = load_model(path).producer_name
    batch: int | None = _BINDINGS[kind](path).batch
    return ModelSource(path, kind, is_checkpoint=False, batch=batch, producer=producer)


def prepare(source: ModelSource) -> Prepared:
    """Converts a checkpoint; sees whether an ONNX file can be run, and frees its batch dimension where that is safe.

    Takes seconds. Raises AvatarError.
    """
    if source.is_checkpoint:
        return _converted(source)
    name, model = source.path.name, load_model(source.path)
    with contextlib.suppress(OnnxRuntimeMissing):
        open_session(model.SerializeToString(), name)
    opened = None if source.batch is None else freed(model, _BINDINGS[source.kind])
    if opened is not None:
        note = f"{name}: took batches of {source.batch} only, now takes any (compared: the same to a thousandth)"
        return Prepared(opened.SerializeToString(deterministic=True), note)
    takes = "takes any batch" if source.batch is None else f"takes batches of {source.batch} only"
    if has_side_files(source.path):
        return Prepared(model.SerializeToString(deterministic=True), f"{name}: put into one file with its weights, {takes}")
    return Prepared(source.path, f"{name}: kept as it is, {takes}")


def newest_checkpoint(folder: Path) -> Path | None:
    """The network in a folder of checkpoints: its ONNX file, else the `.pth` of the largest number; None when it has none.

    Raises FileProblem when several could be meant.
    """
    try:
        there = [path for path in folder.iterdir() if path.suffix.lower() in {".onnx", *CHECKPOINT_SUFFIXES}]
    except OSError as error:
        raise FileProblem(f"cannot be listed: {error.strerror}") from None
    files = sorted(path for path in there if path.is_file())
    best = [path for path in files if path.name == "model_best.onnx"]
    onnx_files = [path for path in files if path.suffix.lower() == ".onnx"]
    numbered = [path for path in files if _NUMBERED.fullmatch(path.stem) and path not in onnx_files]
    if best or len(onnx_files) == 1:
        return (best or onnx_files)[0]
    if numbered and not onnx_files:
        return max(numbered, key=lambda path: int(path.stem))
    if len(files) > 1:
        raise FileProblem(f"has several networks ({', '.join(path.name for path in files[:5])}): choose one with --checkpoint")
    return files[0] if files else None


def chosen_checkpoint(folder: Path) -> Path:
    """The same of a folder that must have a network. Raises FileProblem."""
    path = newest_checkpoint(folder)
    if path is None:
        raise FileProblem("has no network in it, neither .onnx nor .pth")
    if not stays_in(folder, path):
        raise FileProblem(f"has {path.name}, a link that leads out of it: name the file itself with --checkpoint")
    return path


def _converted(source: ModelSource) -> Prepared:
    result = convert_checkpoint(source.path, kind=source.kind)
    detail = f"{result.parameters:,} parameters, differs from PyTorch by at most {result.largest_difference:.1e}"
    return Prepared(result.onnx, f"{source.path.name}: converted to ONNX, {detail}")
