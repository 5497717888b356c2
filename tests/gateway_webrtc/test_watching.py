"""What a player gets over WebRTC."""

from __future__ import annotations

import numpy as np

from ..end_to_end.processes import Service
from ..gateway_http.conftest import calling
from .watching import player


async def test_an_avatar_at_rest_moves_and_is_silent(compositing: Service) -> None:
    async with calling(compositing.address) as http, player(http, "/api/avatars/small/whep") as watching:
        await watching.until(pictures=20, sound=40)
    shown = [frame.to_ndarray(format="gray") for frame in watching.pictures]
    assert shown[0].shape == (304, 416)
    assert max(np.abs(shown[0].astype(int) - each).mean() for each in shown) > 1
    assert all(np.abs(piece.to_ndarray()).max() < 5 for piece in watching.sound)
