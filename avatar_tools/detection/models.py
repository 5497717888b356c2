"""The user's own detection models: opened, and their one input, a picture, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avatar_kit.errors import BrokenAvatar
from avatar_kit.safe_files import FileProblem, read_bounded
from avatar_tools.onnx_sessions import open_session

MAX_DETECTION_MODEL_BYTES = 512 * 2**20  # the published ones have 3 to 17 MB


def open_detection_model(path: Path) -> Any:
    """A session of a model file of bounded size; weights in files beside it are not followed.

    Raises BrokenAvatar, OnnxRuntimeMissing.
    """
    try:
        model = read_bounded(path, MAX_DETECTION_MODEL_BYTES)
    except FileProblem as problem:
        raise BrokenAvatar(problem.of(f"{path.name}:")) from None
    return open_session(model, path.name)


def picture_input(session: Any, name: str, shape: tuple[int, int, int]) -> str:
    """The name of the one input, which must take one float32 picture of that shape, [N, *shape]. Raises BrokenAvatar."""
    ends = session.get_inputs()
    if len(ends) == 1 and ends[0].type == "tensor(float)" and _takes(ends[0].shape, (1, *shape)):
        return str(ends[0].name)
    given = ", ".join(f"{end.name[:40]!r} {end.shape} {end.type}" for end in ends[:6]) or "no inputs"
    raise BrokenAvatar(f"{name}: takes {given}; expected one input [N, {', '.join(map(str, shape))}] of float32")


def _takes(declared: list[int | str | None], wanted: tuple[int, ...]) -> bool:
    if len(declared) != len(wanted):
        return not declared  # some exports do not say even the rank
    return all(not isinstance(has, int) or has in {wants, -1, 0} for has, wants in zip(declared, wanted, strict=True))
