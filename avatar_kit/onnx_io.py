"""Finds a network's inputs and outputs by shape, because exporters disagree about names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_files import load_model

# `producer_name` of the demo's networks. Files contain it, so it keeps the demo module's first name.
DEMO_PRODUCER = "avatar_kit.demo"

_Shape = tuple[int | None, ...]  # None for an open dimension

_VISUAL, _AUDIO, _MOUTH = (6, 320, 320), (32, 16, 16), (3, 320, 320)
_MEL, _ROWS = (1, 80, 16), (512,)
_OTHER_KINDS = {(32, 32, 32): "hubert", (256, 16, 32): "wenet"}


@dataclass(frozen=True, slots=True)
class NetworkIO:
    """Names of the lip-sync network's ends: [N,6,320,320] and [N,32,16,16] in, [N,3,320,320] out. `batch` None: any N."""

    visual: str
    audio: str
    output: str
    batch: int | None


@dataclass(frozen=True, slots=True)
class EncoderIO:
    """Names of the audio encoder's ends: [N,1,80,16] in, [N,512] out. `batch` None: any N."""

    mel: str
    rows: str
    batch: int | None


@dataclass(frozen=True, slots=True)
class _End:
    """One input or output of a graph. `shape` None: not even the rank is given."""

    name: str
    shape: _Shape | None
    is_float: bool

    def __str__(self) -> str:
        dims = "unknown shape" if self.shape is None else f"[{', '.join('?' if d is None else str(d) for d in self.shape)}]"
        return f"{self.name[:40]!r} {dims}{'' if self.is_float else ' not float32'}"

    def fits(self, wanted: tuple[int, ...]) -> bool:
        if not self.is_float:
            return False
        if self.shape is None:
            return True
        return len(self.shape) == len(wanted) + 1 and all(
            has is None or has == wants for has, wants in zip(self.shape[1:], wanted, strict=True)
        )

    def is_kind(self, wanted: tuple[int, ...]) -> bool:
        return self.shape is not None and self.shape[1:] == wanted


def network_io(model: Path | onnx.ModelProto) -> NetworkIO:
    """Finds the lip-sync network's inputs and output. Raises BrokenAvatar for a network that we cannot serve."""
    name, loaded = _loaded(model)
    inputs, outputs = _ends(loaded)
    kind = next((kind for end in inputs for shape, kind in _OTHER_KINDS.items() if end.is_kind(shape)), None)
    if kind is not None:
        raise BrokenAvatar(f"{name}: a network for {kind} audio features; only networks for 'ave' features can be served")
    visual, audio = _bound(name, inputs, [_VISUAL, _AUDIO])
    output = _picked(name, outputs, _MOUTH)
    return NetworkIO(visual.name, audio.name, output.name, _batch(name, [visual, audio, output]))


def encoder_io(model: Path | onnx.ModelProto) -> EncoderIO:
    """Finds the audio encoder's input and output. Raises BrokenAvatar for one that we cannot use."""
    name, loaded = _loaded(model)
    inputs, outputs = _ends(loaded)
    (mel,) = _bound(name, inputs, [_MEL])
    rows = _picked(name, outputs, _ROWS)
    return EncoderIO(mel.name, rows.name, _batch(name, [mel, rows]))


def _loaded(model: Path | onnx.ModelProto) -> tuple[str, onnx.ModelProto]:
    return ("the network", model) if isinstance(model, onnx.ModelProto) else (model.name, load_model(model))


def _ends(model: onnx.ModelProto) -> tuple[list[_End], list[_End]]:
    weights = {tensor.name for tensor in model.graph.initializer}  # before IR version 4 they are listed among the inputs
    inputs = [_end(value) for value in model.graph.input if value.name not in weights]
    return inputs, [_end(value) for value in model.graph.output]


def _end(value: onnx.ValueInfoProto) -> _End:
    tensor = value.type.tensor_type
    shape: _Shape | None = None
    if tensor.HasField("shape"):
        shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim)
    return _End(value.name, shape, is_float=tensor.elem_type == onnx.TensorProto.FLOAT)


def _bound(name: str, ends: Sequence[_End], wanted: Sequence[tuple[int, ...]]) -> Sequence[_End]:
    """Matches one input to each wanted shape. All must be used, and only one match may exist."""
    orders = itertools.permutations(ends) if len(ends) == len(wanted) else ()
    ways = [order for order in orders if all(end.fits(shape) for end, shape in zip(order, wanted, strict=True))]
    if len(ways) != 1:
        what = "could be taken either way" if ways else "do not fit"
        raise BrokenAvatar(
            f"{name}: its inputs {_listed(ends)} {what}; expected {' and '.join(_text(shape) for shape in wanted)}"
        )
    return ways[0]


def _picked(name: str, ends: Sequence[_End], wanted: tuple[int, ...]) -> _End:
    """Returns the one output that fits; ignores others, which some exporters leave in."""
    fitting = [end for end in ends if end.fits(wanted)]
    if len(fitting) != 1:
        what = "has more than one output that fits among" if fitting else "has no output that fits among"
        raise BrokenAvatar(f"{name}: {what} {_listed(ends)}; expected {_text(wanted)}")
    return fitting[0]


def _batch(name: str, ends: Sequence[_End]) -> int | None:
    """Returns the fixed batch size, or None if any is accepted."""
    sizes = {end.shape[0] for end in ends if end.shape} - {None}
    if len(sizes) > 1:
        raise BrokenAvatar(f"{name}: its inputs and outputs have different batch sizes: {_listed(ends)}")
    return sizes.pop() if sizes else None


def _listed(ends: Sequence[_End]) -> str:
    shown = ", ".join(str(end) for end in ends[:6]) or "(none)"
    return f"{shown}, and {len(ends) - 6} more" if len(ends) > 6 else shown


def _text(shape: tuple[int, ...]) -> str:
    return f"[N, {', '.join(map(str, shape))}] float32"
