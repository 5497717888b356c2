"""A GPU that is played by the CPU, for networks that have nothing that a GPU would have to run itself."""

from __future__ import annotations

from inference_service.engines.devices import CPU, Device


class PlayedGpu(Device):
    """A device that is handled as a GPU, and is the CPU. Where a graph would be captured, nothing is."""

    @property
    def is_gpu(self) -> bool:
        return True

    @property
    def replays_graphs(self) -> bool:
        return True

    @property
    def memory(self) -> tuple[str, int]:
        return "cpu", 0


GPU = PlayedGpu(0, "a GPU that is played", ((CPU, {}),))
