"""The user's own detection models: ONNX files that take one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_kit.errors import BrokenAvatar
from avatar_kit.safe_files import FileProblem, read_bounded
from avatar_tools.onnx_sessions import open_session, run_session

MAX_DETECTION_MODEL_BYTES = 512 * 2**20  # the published ones have 3 to 17 MB


class PictureModel:
    """An opened model whose one input is float32 [1, 3, side, side]; for one thread.

    Weights in files beside it are not followed. Raises BrokenAvatar, OnnxRuntimeMissing.
    """

    def __init__(self, path: Path, side: int) -> None:
        self.name = path.name
        try:
            self._session = open_session(read_bounded(path, MAX_DETECTION_MODEL_BYTES), path.name)
        except FileProblem as problem:
            raise BrokenAvatar(problem.of(f"{path.name}:")) from None
        ends = self._session.get_inputs()
        if len(ends) != 1 or ends[0].type != "tensor(float)" or not _takes(ends[0].shape, (1, 3, side, side)):
            given = ", ".join(f"{end.name[:40]!r} {end.shape} {end.type}" for end in ends[:6]) or "no inputs"
            raise BrokenAvatar(f"{path.name}: takes {given}; expected one input [N, 3, {side}, {side}] of float32")
        self._input = ends[0].name

    def outputs(self, planes: NDArray[np.float32]) -> list[NDArray[Any]]:
        """All outputs, in the model's order. Raises BrokenAvatar."""
        return run_session(self._session, self.name, {self._input: planes})

    def refusal(self, outputs: list[NDArray[Any]], expected: str) -> BrokenAvatar:
        """The error for outputs of other shapes than expected."""
        given = ", ".join(str(list(output.shape)) for output in outputs[:12])
        return BrokenAvatar(f"{self.name}: gives {given}; {expected}")


def _takes(declared: list[int | str | None], wanted: tuple[int, ...]) -> bool:
    if len(declared) != len(wanted):
        return not declared  # some exports do not say even the rank
    return all(not isinstance(has, int) or has in {wants, -1, 0} for has, wants in zip(declared, wanted, strict=True))
