"""Which idle avatars make room. Pure policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from inference_service.models.model import LoadedModel

Policy = Literal["lfu", "lru"]


def in_order(models: Iterable[LoadedModel], policy: Policy) -> list[LoadedModel]:
    """Idle models, the first to go first: the least often used (the longest unused of those alike), or the longest unused."""
    idle = [model for model in models if not model.in_use]
    if policy == "lru":
        return sorted(idle, key=lambda model: model.last_used_s)
    return sorted(idle, key=lambda model: (model.usage_count, model.last_used_s))


def to_make_room(
    models: Sequence[LoadedModel],
    policy: Policy,
    *,
    max_models: int,
    max_bytes: int,
    coming_models: int = 0,
    coming_bytes: int = 0,
) -> list[LoadedModel] | None:
    """The idle models to unload so that the rest and what comes fit the limits (max_bytes 0: none); None if they cannot."""
    count = len(models) + coming_models
    total = sum(model.memory_bytes for model in models) + coming_bytes
    victims: list[LoadedModel] = []
    for model in in_order(models, policy):
        if count <= max_models and (not max_bytes or total <= max_bytes):
            break
        victims.append(model)
        count -= 1
        total -= model.memory_bytes
    fits = count <= max_models and (not max_bytes or total <= max_bytes)
    return victims if fits else None
