"""Finds how many sessions fit: doubles the number until they do not, then halves the interval."""

from __future__ import annotations

from dataclasses import dataclass

# The search ends when the interval is this small a share of what fits, or one session.
_FINENESS = 0.05


@dataclass(slots=True)
class Ramp:
    """The state of a search."""

    trial: int
    """The number to try next."""
    most: int
    """Never try more."""
    fits: int = 0
    """The largest number that fitted."""
    too_many: int | None = None
    """The smallest that did not."""
    is_over: bool = False

    def note(self, did_fit: bool) -> None:
        """Takes the outcome of the trial and chooses the next one."""
        if did_fit:
            self.fits = self.trial
        else:
            self.too_many = self.trial
        if self.too_many is None:
            self.is_over = self.trial >= self.most
            self.trial = min(self.most, 2 * self.trial)
        else:
            self.is_over = self.too_many - self.fits <= max(1, int(_FINENESS * self.fits))
            self.trial = (self.fits + self.too_many) // 2
