"""Remembers in which way a replica, or what an endpoint leads to, computes the mouths of each avatar.

Replicas on unlike processors, or of unlike versions, give mouths that differ by a rounding. One speech should not have both.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field

from prometheus_client import Counter

_MOST_AVATARS = 1000

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class KnownNumerics:
    """The numerics of the latest mouths of each avatar, from one place."""

    _known: OrderedDict[str, str] = field(default_factory=OrderedDict)

    def note(self, avatar_id: str, numerics: str) -> None:
        """Keeps the numerics of mouths that have come."""
        self._known[avatar_id] = numerics
        self._known.move_to_end(avatar_id)
        if len(self._known) > _MOST_AVATARS:
            self._known.popitem(last=False)

    def differ(self, avatar_id: str, numerics: str) -> bool:
        """Tells if this avatar's mouths are known to be computed in another way; "" is no way."""
        return bool(numerics) and self._known.get(avatar_id, numerics) != numerics


@dataclass(slots=True)
class NumericsWatch:
    """Counts the changes among the mouths of one speech."""

    avatar_id: str
    numerics: str
    """Name of the last mouths' numerics; "": not known."""
    changes: Counter

    def see(self, numerics: str, *places: KnownNumerics) -> None:
        """Takes the numerics of the next mouths, and the places that they came from. An older service sends none."""
        if not numerics:
            return
        if self.numerics and numerics != self.numerics:
            self.changes.inc()
            log.warning(
                "avatar %s: mouths are computed by %s from here on, by %s before", self.avatar_id, numerics, self.numerics
            )
        self.numerics = numerics
        for place in places:
            place.note(self.avatar_id, numerics)
