"""Real services before small avatars."""

from __future__ import annotations

from ..gateway_http.conftest import compositing, models_root

__all__ = ["compositing", "models_root"]
