"""The seam between the service and the programs that run networks: an engine runs one avatar's network on one device.

Every implementation passes the tests in tests/inference_engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import MOUTH_SIZE
from inference_service.engines.crops import CropBank
from inference_service.engines.devices import Device
from inference_service.engines.shared_memory import SharedMemory

NO_PICTURES = np.empty((0, 6, MOUTH_SIZE, MOUTH_SIZE), np.float32)


class EngineError(RuntimeError):
    """The network failed in a run. The text is for the log."""


@dataclass(frozen=True)
class EngineInput:
    """A batch: first frames from the avatar's own crops, then frames whose pictures the caller sent."""

    windows: NDArray[np.float32]  # [n + m, 16, 512]
    frames: NDArray[np.int64]  # [n]
    pictures: NDArray[np.float32]  # [m, 6, 320, 320]
    want_float: bool
    want_uint8: bool


@dataclass(frozen=True)
class EngineOutput:
    """The mouths of a batch, in the forms that were wanted."""

    mouths_float: NDArray[np.float32] | None  # [n + m, 3, 320, 320]
    mouths_uint8: NDArray[np.uint8] | None  # [n + m, 320, 320, 3]
    finite: NDArray[np.bool_]  # [n + m]
    seconds: float


class Engine(Protocol):
    """Runs one avatar's network on one device, open from its construction on. Methods block and may be called from any thread."""

    @property
    def avatar_id(self) -> str:
        """The avatar whose network it runs."""

    @property
    def device(self) -> Device:
        """The device that it runs on."""

    @property
    def bank(self) -> CropBank:
        """The avatar's crops on that device."""

    @property
    def room(self) -> int:
        """The most frames that the next batch should hold. Changes with the speed of the last runs."""

    @property
    def short_room(self) -> int:
        """The most frames of a batch while sessions wait: fewer than `room` where a run takes longer the more frames it has."""

    @property
    def run_frames(self) -> int:
        """Frames that the network runs at once at least: fewer take as long."""

    @property
    def run_sizes(self) -> Sequence[int]:
        """Frames of a run, ascending: all give a frame the same bytes."""

    @property
    def producer(self) -> str:
        """The program that wrote the network, "" when its file does not say."""

    @property
    def arithmetic(self) -> str:
        """The program that computes, its version and its precision. Another one, or another processor, may round otherwise."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the network's weights where all else is shared with other avatars; 0 where it shares nothing."""

    @property
    def shared_memory(self) -> SharedMemory | None:
        """The memory that it shares with other avatars' engines; None where it shares nothing."""

    def warm_up(self) -> EngineOutput:
        """Runs the network as `run` will, to find now a network or a device that cannot work. Returns a run of one frame.

        Raises BrokenAvatar.
        """

    def run(self, batch: EngineInput) -> EngineOutput:
        """Runs the network. Crops of `batch.frames` must be in the bank.

        Raises EngineError for any failure in the run, also when the thread's work is cut short.
        """
