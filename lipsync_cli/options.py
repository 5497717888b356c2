"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_MODELS_ROOT = Path("models")

ModelsRoot = Annotated[Path, typer.Option("--models-root", metavar="DIR", help="The folder of the avatars.")]


def check_suffix(path: Path, suffix: str, option: str) -> None:
    """Refuses a file whose name would say something else than it holds."""
    if path.suffix.lower() != suffix:
        raise typer.BadParameter(f"{path} does not end in {suffix}", param_hint=option)
