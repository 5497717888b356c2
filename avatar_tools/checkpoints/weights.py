"""Reads the content of a checkpoint as weights by the names of the published layout."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_kit.errors import BrokenAvatar, shortened
from avatar_tools.checkpoints.files import foreign_code
from avatar_tools.checkpoints.kinds import NAMES, NETWORKS, PREFIXES, Kind, kind_of
from avatar_tools.networks.weights import WeightsError, check_weights

WRAPPERS = ("model", "model_state_dict", "state_dict")
_MAX_WRAPPERS = 10  # a dict may contain itself
_MAX_NUMBERS = 2**26  # five times the larger network; a few bytes can declare a tensor of any size

_COUNTER = ".num_batches_tracked"
_REFUSED_FUNCTION = re.compile(r"GLOBAL ([\w.]+)")


def read_weights(name: str, data: bytes, kind: Kind, torch: Any) -> dict[str, NDArray[Any]]:
    """The weights in a checkpoint's bytes, exactly those of the network: float32, and int64 counters.

    Raises BrokenAvatar.
    """
    tensors = _state_dict(name, _unpickled(name, data, torch))
    found = kind_of(tensors)
    if found not in {None, kind}:
        raise BrokenAvatar(f"{name}: holds {NAMES[found]}, not {NAMES[kind]}")
    weights = _arrays(name, tensors, torch)
    shapes = NETWORKS[kind].shapes()
    try:
        check_weights(weights, shapes)
    except WeightsError as error:
        if kind == "network" and _is_for_other_sound(weights, shapes):
            sentence = "a network for another kind of audio features; only networks for 'ave' features can be served"
            raise BrokenAvatar(f"{name}: {sentence}") from None
        raise BrokenAvatar([f"{name}: {problem}" for problem in error.problems]) from None
    return weights


def _unpickled(name: str, data: bytes, torch: Any) -> Any:
    """The content, of plain data and tensors only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which are accepted
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        if refused := _REFUSED_FUNCTION.search(str(error)):
            raise BrokenAvatar(foreign_code(name, refused[1])) from None
        raise BrokenAvatar(f"{name}: is damaged or truncated, or not a PyTorch checkpoint") from None


def _state_dict(name: str, content: Any) -> dict[str, Any]:
    """The innermost dict, without the prefixes that all of its names have."""
    for _ in range(_MAX_WRAPPERS):
        inner = [content[key] for key in WRAPPERS if key in content] if isinstance(content, Mapping) else []
        inner = [value for value in inner if isinstance(value, Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise BrokenAvatar(f"{name}: holds no weights by name; expected a network's state_dict()")
    named = {str(key): value for key, value in content.items()}
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in named)), ""):
        named = {key.removeprefix(prefix): value for key, value in named.items()}
    return named


def _arrays(name: str, tensors: Mapping[str, Any], torch: Any) -> dict[str, NDArray[Any]]:
    odd = [f"{name}: {key[:80]}: {problem}" for key, value in tensors.items() if (problem := _oddity(key, value, torch))]
    if odd:
        raise BrokenAvatar(shortened(odd))
    numbers = sum(tensor.numel() for tensor in tensors.values())
    if numbers > _MAX_NUMBERS:
        raise BrokenAvatar(f"{name}: holds {numbers} numbers, more than {_MAX_NUMBERS}: not a network of this family")
    return {key: _array(key, tensor, torch) for key, tensor in tensors.items()}


def _oddity(key: str, value: Any, torch: Any) -> str | None:
    if not isinstance(value, torch.Tensor):
        return f"is not a tensor but of type {type(value).__name__[:40]}"
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        return "is not a plain tensor"
    if not key.endswith(_COUNTER) and not value.is_floating_point():
        return f"has numbers of type {str(value.dtype).removeprefix('torch.')}, not floating-point ones"
    return None


def _array(key: str, tensor: Any, torch: Any) -> NDArray[Any]:
    kind = torch.int64 if key.endswith(_COUNTER) else torch.float32
    return np.asarray(tensor.detach().to(kind).numpy())


def _is_for_other_sound(weights: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """All weights fit except those of the branch for the sound."""
    try:
        check_weights(
            {key: array for key, array in weights.items() if not key.startswith("audio_model.")},
            {key: shape for key, shape in shapes.items() if not key.startswith("audio_model.")},
        )
    except WeightsError:
        return False
    # Only another width is evidence of another kind of sound; missing or broken weights are not.
    first = "audio_model.conv1.conv.0.weight"
    return first in weights and weights[first].shape != shapes[first]
