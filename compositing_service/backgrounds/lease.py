"""An avatar held in memory: the hold that requests and sessions have on one loading of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avatar_kit.avatar import Avatar
from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.backgrounds.preparing import Preparation
from compositing_service.outputs import Output


@dataclass(frozen=True, slots=True)
class Lease:
    """The avatar is not evicted while this is held, for hours if need be; its files may be loaded anew meanwhile.

    `BackgroundStore.acquire` gives these. For use on the store's event loop; `composer` is for threads.
    """

    composer: AvatarComposer
    _preparation: Callable[[], Preparation | None]
    _is_current: Callable[[], bool]

    @property
    def avatar(self) -> Avatar:
        """The avatar as it was loaded."""
        return self.composer.avatar

    @property
    def renewed(self) -> bool:
        """True when the avatar has been loaded again since: acquiring it now gives the newer one, this one stays as it is."""
        return not self._is_current()

    def preparing(self, indices: Sequence[int], output: Output) -> asyncio.Future[None] | None:
        """Returns a future to await before compositing these frames in that form; None if there is nothing to wait for.

        Frames that are asked for here are prepared before all others.
        """
        preparation = self._preparation()
        wish = preparation.wish(indices, output) if preparation else None
        return asyncio.wrap_future(wish) if wish else None
