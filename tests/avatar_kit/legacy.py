"""The earlier servers' layout in a configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import BrokenAvatar
from avatar_kit.model_entry import ModelEntry

Frame = Callable[..., NDArray[np.uint8]]
SANDERS = {
    "model_path": "sanders/checkpoint/model_best.onnx",
    "background_dir": "sanders/frames",
    "crop_rects_path": "sanders/crop_rects.json",
    "num_frames": 6,
    "preload_backgrounds": True,
    "preload_model": False,
    "preferred_gpu": 0,
}


def catalog(root: Path, **entry: Any) -> AvatarCatalog:
    return AvatarCatalog(root, {"sanders": ModelEntry.model_validate(entry)})


def problems_of(root: Path, **entry: Any) -> str:
    with pytest.raises(BrokenAvatar) as caught:
        catalog(root, **entry).get("sanders")
    assert str(root) not in str(caught.value), "callers may see this: no paths of this machine"
    return str(caught.value)


def without_frames(folder: Path) -> None:
    for path in (folder / "frames").iterdir():
        path.unlink()
