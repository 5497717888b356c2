"""Chooses the idle avatars to unload for room. Pure policy."""

from __future__ import annotations

from collections.abc import Iterable

from inference_service.models.model import LoadedModel
from service_kit.leases import Lease, Policy, first_to_go


def to_make_room(
    loaded: Iterable[Lease[LoadedModel]], policy: Policy, *, max_models: int, max_bytes: int, coming_bytes: int
) -> list[Lease[LoadedModel]] | None:
    """Returns idle avatars to unload so that the others and one more fit the limits (max_bytes 0: none); None if they cannot."""
    kept = list(loaded)
    victims: list[Lease[LoadedModel]] = []
    for lease in [*first_to_go(kept, policy), None]:
        total = sum(each.value.memory_bytes for each in kept) + coming_bytes
        if len(kept) < max_models and (not max_bytes or total <= max_bytes):
            return victims
        if lease:
            kept.remove(lease)
            victims.append(lease)
    return None
