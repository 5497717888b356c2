"""Reads ONNX files from untrusted sources, including weights in side files."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from avatar_kit.errors import as_broken_avatar, cut
from avatar_kit.limits import MAX_MODEL_BYTES
from avatar_kit.safe_files import FileProblem, contained, read_bounded, size_of

_LONGEST_REASON = 420
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PLACE = re.compile(r"Load model from .+? failed: ?|/\S+:\d+:? (?:\S.*?\) )?(?:\[with [^]]*\] )?")
_MACHINE = re.compile(r" ; GPU=-?\d+ ; hostname=.*? ; expr=.*", re.DOTALL)  # at the end of a GPU's errors


def load_model(path: Path) -> onnx.ModelProto:
    """Reads a whole model, including weights in other files of its folder.

    Raises BrokenAvatar; for more than `MAX_MODEL_BYTES` in all, before reading them.
    """
    with as_broken_avatar(path.name):
        model = _parsed(read_bounded(path, MAX_MODEL_BYTES))
        _fetch_weights(model, path)
    return model


def load_model_with_digest(path: Path) -> tuple[onnx.ModelProto, str]:
    """Reads a model as `load_model` does. Returns also the SHA-256 of all that was read, in hexadecimal."""
    with as_broken_avatar(path.name):
        data = read_bounded(path, MAX_MODEL_BYTES)
        model = _parsed(data)
        beside = _side_tensors(model)
        _fetch_weights(model, path)
    digest = hashlib.sha256(data)
    for tensor in beside:
        digest.update(tensor.raw_data)
    return model, digest.hexdigest()


def runtime_reason(error: Exception) -> str:
    """Returns the message of ONNX Runtime or the onnx package without source locations."""
    text = _PLACE.sub("", _MACHINE.sub("", _CODE.sub("", str(error)))).strip() or type(error).__name__
    return cut(" ".join(text.split()), _LONGEST_REASON)


def has_side_files(path: Path) -> bool:
    """Returns True if a model keeps weights in other files. Raises BrokenAvatar."""
    with as_broken_avatar(path.name):
        return bool(_side_tensors(_parsed(read_bounded(path, MAX_MODEL_BYTES))))


def _parsed(data: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError):
        raise FileProblem("is not an ONNX file, or is truncated") from None
    if not model.graph.node:
        raise FileProblem("is not an ONNX file, or is truncated: it has no graph")
    return model


def _side_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in _tensors(model) if uses_external_data(tensor)]


@dataclass(frozen=True, slots=True)
class _Piece:
    """The file and the range of bytes that hold a tensor."""

    tensor: onnx.TensorProto
    place: Path
    offset: int
    length: int


def _fetch_weights(model: onnx.ModelProto, path: Path) -> None:
    """Reads the weights in other files. Raises FileProblem about the model's file."""
    pieces = [_piece(tensor, path.parent) for tensor in _side_tensors(model)]
    total = sum(piece.length for piece in pieces)
    if total > MAX_MODEL_BYTES:
        raise FileProblem(f"has {total} bytes of weights in other files, more than the {MAX_MODEL_BYTES} allowed")
    for piece in pieces:
        try:
            with piece.place.open("rb") as file:
                file.seek(piece.offset)
                piece.tensor.raw_data = file.read(piece.length)
        except OSError as error:
            raise FileProblem(f"keeps weights in {piece.place.name}, which cannot be read: {error.strerror}") from None
        piece.tensor.ClearField("data_location")
        del piece.tensor.external_data[:]


def _piece(tensor: onnx.TensorProto, folder: Path) -> _Piece:
    info = _where(tensor)
    try:
        place = contained(folder, info.location)
        size = size_of(place)
    except FileProblem as problem:
        raise FileProblem(f"keeps weights in {info.location[:100]}, which {problem}") from None
    offset = info.offset or 0
    length = size - offset if info.length is None else info.length
    if not 0 <= length <= size - offset:
        raise FileProblem(f"keeps weights in {place.name}, which is shorter than it says: truncated, or of another network")
    return _Piece(tensor, place, offset, length)


def _where(tensor: onnx.TensorProto) -> ExternalDataInfo:
    try:
        with warnings.catch_warnings(action="ignore"):  # about unknown keys
            return ExternalDataInfo(tensor)
    except ValueError:
        raise FileProblem("says of weights in other files where they are, but not with numbers") from None


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yields every tensor of a model, wherever it is: one that was missed would be read from any file of this machine."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else (value,):
            if isinstance(inner, onnx.TensorProto):
                yield inner
            else:
                yield from _tensors(inner)
