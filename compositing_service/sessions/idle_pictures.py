"""The pictures of idle frames, a few made at a time: passing each alone to a thread would cost more than making it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from compositing_service.frame_stream import FrameMaker
from compositing_service.sessions.live_avatar import IDLE_FRAMES_AT_ONCE, LiveAvatar
from compositing_service.sessions.making import Planned


@dataclass(slots=True, eq=False)
class IdlePictures:
    """Makes them for one session."""

    maker: FrameMaker
    _of: LiveAvatar | None = None
    _ready: dict[int, bytes] = field(default_factory=dict)
    """By position; the next ones of the timeline."""

    async def picture(self, frame: Planned) -> bytes:
        """Returns the picture of an idle frame. Raises AvatarError for one that cannot be read."""
        live = frame.shown.avatar
        if live is not self._of or frame.position not in self._ready:
            await self._make(live, frame.position)
        return self._ready.pop(frame.position)

    def forget(self) -> None:
        """Drops what was made ahead."""
        self._of, self._ready = None, {}

    async def _make(self, live: LiveAvatar, position: int) -> None:
        positions = live.idle_positions(position, IDLE_FRAMES_AT_ONCE)
        pictures = await asyncio.get_running_loop().run_in_executor(self.maker.pool, live.idle_pictures, positions)
        self._of, self._ready = live, dict(zip(positions, pictures, strict=True))
