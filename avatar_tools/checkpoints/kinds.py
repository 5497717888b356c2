"""Telling the two networks' checkpoints apart by the names of their weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["network", "audio_encoder"]

NAMES: dict[Kind, str] = {"network": "a lip-sync network", "audio_encoder": "an audio encoder"}

PREFIXES = ("module.", "_orig_mod.", "audio_encoder.")
"""What training in parallel, compiling and a holder around the encoder put in front of every name."""

# The first and the last weights of each; no name of one network is one of the other's.
_TELLING: dict[Kind, frozenset[str]] = {
    "network": frozenset({"inc.inconv.0.conv.0.weight", "outc.conv.weight"}),
    "audio_encoder": frozenset({"0.conv_block.0.weight", "12.conv_block.0.weight"}),
}


def kind_of(names: Collection[str]) -> Kind | None:
    """What has weights of these names, prefixes or not; None when it is neither network."""
    bare = {without_prefixes(name) for name in names}
    return next((kind for kind, telling in _TELLING.items() if telling <= bare), None)


def without_prefixes(name: str) -> str:
    """The name that the published layout knows."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name
