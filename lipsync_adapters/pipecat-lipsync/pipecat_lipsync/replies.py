"""Keeps the sound of the bot's replies until the avatar has shown it, and the frames that come between.

Sound is mono, 16 bits, in the rate of the session. It does no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pipecat.frames.frames import Frame

Samples = NDArray[np.int16]


@dataclass(eq=False, slots=True)
class Reply:
    """One utterance of the bot: a segment of the session. Positions are in samples from its start."""

    context_id: str | None
    destination: str | None
    interruptible: bool
    segment: int | None = None
    """Its number in the session; None: nothing of it was pushed."""
    received: int = 0
    pushed: int = 0
    """The session has the sound before this."""
    shown: int = 0
    """The sound before this has gone downstream."""
    ended: bool = False
    end_pushed: bool = False
    _sound: deque[Samples] = field(default_factory=deque)
    """What was received and not shown."""
    _held: deque[tuple[int, Frame]] = field(default_factory=deque)

    @property
    def is_over(self) -> bool:
        """Tells if all of it has gone downstream."""
        return self.ended and self.shown == self.received

    def add(self, sound: Samples) -> None:
        """Appends sound."""
        self._sound.append(sound)
        self.received += len(sound)

    def hold(self, frame: Frame) -> None:
        """Keeps a frame until the sound received so far has gone downstream."""
        self._held.append((self.received, frame))

    def to_push(self) -> Samples:
        """Returns the sound that the session does not have, and counts it as pushed."""
        sound = np.concatenate([*self._sound])[self.pushed - self.shown :]
        self.pushed = self.received
        return sound

    def show(self, samples: int) -> None:
        """Notes that so many samples more have gone downstream."""
        self.shown += samples
        while samples and self._sound:
            first = self._sound.popleft()
            if len(first) > samples:
                self._sound.appendleft(first[samples:])
            samples -= min(samples, len(first))

    def due(self) -> Iterator[Frame]:
        """Yields the held frames whose turn has come, and forgets them."""
        while self._held and self._held[0][0] <= self.shown:
            yield self._held.popleft()[1]

    def rest(self) -> Iterator[Samples | Frame]:
        """Yields the sound that was not shown, and all held frames, each in its place. Nothing is kept."""
        while self._held or self.shown < self.received:
            yield from self.due()
            until = self._held[0][0] if self._held else self.received
            if until > self.shown:
                sound = np.concatenate([*self._sound])[: until - self.shown]
                self.show(len(sound))
                yield sound

    def held(self) -> Iterator[Frame]:
        """Yields all held frames, and forgets them."""
        while self._held:
            yield self._held.popleft()[1]

    def begin_again(self) -> None:
        """Forgets what the session has: the sound that was not shown is to be pushed as another segment."""
        self.segment, self.pushed, self.end_pushed = None, self.shown, False


class Replies:
    """The replies that are not shown to their end, in order."""

    def __init__(self) -> None:
        self._replies: deque[Reply] = deque()

    def __iter__(self) -> Iterator[Reply]:
        return iter(self._replies)

    def __bool__(self) -> bool:
        return bool(self._replies)

    @property
    def open(self) -> Reply | None:
        """The reply that is still being received."""
        return self._replies[-1] if self._replies and not self._replies[-1].ended else None

    @property
    def last(self) -> Reply | None:
        """The reply that was received last."""
        return self._replies[-1] if self._replies else None

    def begin(self, reply: Reply) -> Reply:
        """Appends a reply."""
        self._replies.append(reply)
        return reply

    def of_segment(self, segment: int) -> Reply | None:
        """Finds the reply that is this segment of the session."""
        return next((reply for reply in self._replies if reply.segment == segment), None)

    def next_to_push(self) -> Reply | None:
        """Returns the first reply with sound, or an end, that the session does not have."""
        for reply in self._replies:
            if reply.pushed < reply.received or (reply.ended and not reply.end_pushed):
                return reply
        return None

    def forget(self, reply: Reply) -> None:
        """Drops a reply that is over, if it is there."""
        if reply in self._replies:
            self._replies.remove(reply)

    def take_all(self) -> list[Reply]:
        """Empties this, and returns what it had."""
        taken = list(self._replies)
        self._replies.clear()
        return taken
