"""Keeps, in order, the messages of a browser that the session has not taken yet.

Reading ahead of the session lets an interrupt overtake the sound that it drops. What waits is bounded: beyond, nothing is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gateway_service.speaking import SpeechFailed
from gateway_service.websocket.messages import Speak, SwitchAvatar
from lipsync_client import PushedSound

# Messages other than sound, which follow each other without any between.
MOST_MESSAGES = 64


@dataclass(eq=False, slots=True)
class SoundPieces:
    """Sound, in the pieces in which it came."""

    pieces: list[PushedSound] = field(default_factory=list)
    count: int = 0
    """Samples."""

    def add(self, samples: PushedSound) -> None:
        """Appends a piece."""
        self.pieces.append(samples)
        self.count += len(samples)

    def first(self) -> SoundPieces:
        """Returns its first sample."""
        return SoundPieces([self.pieces[0][:1]], 1)

    def together(self) -> PushedSound:
        """Returns all of it."""
        pieces: Any = self.pieces
        whole: PushedSound = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        return whole


class EndOfSegment:
    """The sound so far is a whole utterance."""


class Close:
    """Nothing more comes."""


Item = SoundPieces | EndOfSegment | SwitchAvatar | Speak | SpeechFailed | Close
"""A SpeechFailed stands for a text that is too long to wait."""


class Inbox:
    """Holds items between the task that reads the socket and the one that gives them to the session."""

    def __init__(self, most_samples: int) -> None:
        self.most_samples = most_samples
        """More sound than this waits in the socket."""
        self._items: deque[Item] = deque()
        self._samples = 0
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def add_sound(self, samples: PushedSound) -> None:
        """Appends sound."""
        last = self._items[-1] if self._items else None
        if not isinstance(last, SoundPieces):
            last = SoundPieces()
            self._items.append(last)
        last.add(samples)
        self._samples += len(samples)
        self._note()

    def add(self, item: Item) -> None:
        """Appends what is not sound."""
        self._items.append(item)
        self._note()

    async def room(self) -> None:
        """Waits until more may be read."""
        await self._has_room.wait()

    async def take(self) -> Item:
        """Waits for the next item, and takes it."""
        while not self._items:
            self._changed.clear()
            await self._changed.wait()
        item = self._items.popleft()
        if isinstance(item, SoundPieces):
            self._samples -= item.count
        self._note()
        return item

    def drop_speech(self) -> list[SoundPieces | EndOfSegment]:
        """Drops the sound and the texts that wait. Returns the same segments with a sample of each.

        A text is no segment until it is begun, but it ends the one before it.
        """
        speech = [item for item in self._items if not isinstance(item, SwitchAvatar | Close)]
        first = [item.first() if isinstance(item, SoundPieces) else EndOfSegment() for item in speech]
        self._items = deque(item for item in self._items if isinstance(item, SwitchAvatar | Close))
        self._samples = 0
        self._note()
        return first

    def _note(self) -> None:
        if self._items:
            self._changed.set()
        if self._samples <= self.most_samples and len(self._items) <= MOST_MESSAGES:
            self._has_room.set()
        else:
            self._has_room.clear()
