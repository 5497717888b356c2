"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_MODELS_ROOT = Path("models")

ModelsRoot = Annotated[Path, typer.Option("--models-root", metavar="DIR", help="The folder of the avatars.")]
