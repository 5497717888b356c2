"""Distinguishes the two networks' checkpoints by the names of their weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

from avatar_tools.networks.audio_encoder import AUDIO_ENCODER
from avatar_tools.networks.network import Network
from avatar_tools.networks.unet import UNET

Kind: TypeAlias = Literal["network", "audio_encoder"]

NETWORKS: dict[Kind, Network] = {"network": UNET, "audio_encoder": AUDIO_ENCODER}
NAMES: dict[Kind, str] = {"network": "a lip-sync network", "audio_encoder": "an audio encoder"}

PREFIXES = ("module.", "_orig_mod.", "audio_encoder.")
"""The prefixes that parallel training, compiling and a module around the encoder add to every name."""

# The first and the last weights of each; no name of one network is one of the other's.
_CHARACTERISTIC: dict[Kind, frozenset[str]] = {
    "network": frozenset({"inc.inconv.0.conv.0.weight", "outc.conv.weight"}),
    "audio_encoder": frozenset({"0.conv_block.0.weight", "12.conv_block.0.weight"}),
}


def kind_of(names: Collection[str]) -> Kind | None:
    """The network that has weights of these names, with or without prefixes; None for neither."""
    bare = {without_prefixes(name) for name in names}
    return next((kind for kind, names_of_kind in _CHARACTERISTIC.items() if names_of_kind <= bare), None)


def without_prefixes(name: str) -> str:
    """The name in the published layout."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name
