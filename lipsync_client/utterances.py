"""Keeps the sound of a speaker until it was shown, and what comes between its words. It does no I/O.

Sound is mono, 16 bits, in the rate of the session. Positions are in samples from the start of an utterance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Utterance(Generic[T]):
    """A segment of a session, and the `T` that are held between its words."""

    segment: int | None = None
    """Its number in the session; None: nothing of it was pushed."""
    received: int = 0
    pushed: int = 0
    """The session has the sound before this."""
    shown: int = 0
    """The sound before this was shown."""
    ended: bool = False
    end_pushed: bool = False
    _sound: deque[Samples] = field(default_factory=deque)
    """Sound that was received and not shown."""
    _held: deque[tuple[int, T]] = field(default_factory=deque)

    @property
    def is_over(self) -> bool:
        """Tells if all of it has been shown."""
        return self.ended and self.shown == self.received

    def add(self, sound: Samples) -> None:
        """Appends sound."""
        self._sound.append(sound)
        self.received += len(sound)

    def hold(self, thing: T) -> None:
        """Keeps something until the sound received so far has been shown."""
        self._held.append((self.received, thing))

    def to_push(self) -> Samples:
        """Returns the sound that the session does not have, and counts it as pushed."""
        sound = np.concatenate([*self._sound])[self.pushed - self.shown :]
        self.pushed = self.received
        return sound

    def show(self, samples: int) -> None:
        """Notes that so many samples more have been shown."""
        self.shown += samples
        while samples and self._sound:
            first = self._sound.popleft()
            if len(first) > samples:
                self._sound.appendleft(first[samples:])
            samples -= min(samples, len(first))

    def due(self) -> Iterator[T]:
        """Yields what is held and whose turn has come, and forgets it."""
        while self._held and self._held[0][0] <= self.shown:
            yield self._held.popleft()[1]

    def rest(self) -> Iterator[Samples | T]:
        """Yields the sound that was not shown, and all that is held, each in its place. Nothing is kept."""
        while self._held or self.shown < self.received:
            yield from self.due()
            until = self._held[0][0] if self._held else self.received
            if until > self.shown:
                sound = np.concatenate([*self._sound])[: until - self.shown]
                self.show(len(sound))
                yield sound

    def held(self) -> Iterator[T]:
        """Yields all that is held, and forgets it."""
        while self._held:
            yield self._held.popleft()[1]

    def begin_again(self) -> None:
        """Forgets what the session has: the sound that was not shown is to be pushed as another segment."""
        self.segment, self.pushed, self.end_pushed = None, self.shown, False


UtteranceT = TypeVar("UtteranceT", bound=Utterance[Any])


class Utterances(Generic[UtteranceT]):
    """The utterances that are not shown to their end, in order."""

    def __init__(self) -> None:
        self._kept: deque[UtteranceT] = deque()

    def __iter__(self) -> Iterator[UtteranceT]:
        return iter(self._kept)

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def open(self) -> UtteranceT | None:
        """The one that is still being received."""
        return self._kept[-1] if self._kept and not self._kept[-1].ended else None

    @property
    def last(self) -> UtteranceT | None:
        """The one that was received last."""
        return self._kept[-1] if self._kept else None

    def begin(self, utterance: UtteranceT) -> UtteranceT:
        """Appends one."""
        self._kept.append(utterance)
        return utterance

    def of_segment(self, segment: int) -> UtteranceT | None:
        """Finds the one that is this segment of the session."""
        return next((each for each in self._kept if each.segment == segment), None)

    def next_to_push(self) -> UtteranceT | None:
        """Returns the first with sound, or an end, that the session does not have."""
        return next((each for each in self._kept if each.pushed < each.received or (each.ended and not each.end_pushed)), None)

    def forget(self, utterance: UtteranceT) -> None:
        """Drops one that is over, if it is there."""
        if utterance in self._kept:
            self._kept.remove(utterance)

    def take_all(self) -> list[UtteranceT]:
        """Empties this, and returns what it had."""
        taken = list(self._kept)
        self._kept.clear()
        return taken
