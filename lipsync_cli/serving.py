"""`lipsync serve`: one service in this process."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from service_kit.settings import load_settings

SETTINGS_CLASSES = {"inference": "InferenceSettings", "compositing": "CompositingSettings"}


def serve(name: str, *, config: Path | None, overrides: Sequence[str]) -> int:
    """Runs a service until SIGTERM or SIGINT. Raises SettingsError; returns the exit code."""
    package = f"{name}_service"
    settings_class = getattr(importlib.import_module(f"{package}.settings"), SETTINGS_CLASSES[name])
    settings = load_settings(settings_class, config=config, overrides=overrides)
    # Imported once the settings are known to be good: it brings the networks' runtime along, which takes a second.
    code: int = importlib.import_module(f"{package}.service").serve(settings)
    return code
