"""Chooses the program and the precision that run the networks, from the configuration and this machine.

Never by the clock: two replicas of one kind of machine must choose alike, or a session that moves would change its picture.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inference_service.engines import openvino_models
from inference_service.engines.devices import Device, DeviceError
from inference_service.engines.onnxruntime import ARITHMETIC, ARITHMETIC_FLOAT16
from inference_service.settings import EngineName, PrecisionName

log = logging.getLogger(__name__)

NOT_INSTALLED = "this processor has bfloat16, but OpenVINO, which would use it, is not installed (extra [cpu])"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The way in which networks run. In float32 where they cannot run, or may not, in bfloat16 or float16."""

    float32_by_openvino: bool = False
    """OpenVINO runs those in float32 too, else ONNX Runtime."""
    bfloat16: bool = False
    """OpenVINO runs networks in bfloat16 where that changes too little to be seen."""
    bfloat16_always: bool = False
    """Also where it changes more."""
    float16: bool = False
    """ONNX Runtime runs networks in float16, on a GPU, where that changes too little to be seen."""
    why_not: str = ""
    """A processor that has bfloat16 is not used for it, for this reason."""

    @property
    def quick_precision(self) -> Literal["bfloat16", "float16"] | None:
        """The precision that is tried before float32."""
        return "bfloat16" if self.bfloat16 else "float16" if self.float16 else None

    @property
    def numerics(self) -> str:
        """The program, its version and the precision that networks get unless it changes them too much."""
        if self.float16:
            return ARITHMETIC_FLOAT16
        if self.bfloat16 or self.float32_by_openvino:
            return openvino_models.arithmetic("bfloat16" if self.bfloat16 else "float32")
        return ARITHMETIC

    @property
    def exact_numerics(self) -> str:
        """The same of networks in float32."""
        return openvino_models.arithmetic("float32") if self.float32_by_openvino else ARITHMETIC


IN_FLOAT32 = EngineChoice()


def choose_engine(engine: EngineName, precision: PrecisionName, devices: Sequence[Device]) -> EngineChoice:
    """Makes the choice for these devices. Raises DeviceError for a configuration that this machine cannot follow."""
    if devices[0].is_gpu or devices[0].providers[0][0] != "CPUExecutionProvider":
        if engine == "openvino" or precision == "bfloat16":
            what = "engine: openvino" if engine == "openvino" else "precision: bfloat16"
            raise DeviceError(f"{what} is for the CPU alone; this service runs networks on {devices[0].name} by onnx.providers")
        return EngineChoice(float16=precision == "float16")
    if precision == "float16":
        raise DeviceError("precision: float16 is for GPUs: a CPU computes in float32, or in bfloat16 where it has that")
    if engine == "onnxruntime":
        if precision == "bfloat16":
            raise DeviceError("precision: bfloat16 needs engine: openvino or auto, as ONNX Runtime has no bfloat16 on CPUs")
        return EngineChoice()
    wanted, has_bfloat16 = engine == "openvino", openvino_models.processor_has_bfloat16()
    if precision == "bfloat16" and not has_bfloat16:
        raise DeviceError("precision: bfloat16, but this processor has no instructions for it (AMX or AVX512_BF16)")
    if wanted or precision == "bfloat16":
        openvino_models.core()
    if precision == "float32" or not has_bfloat16:
        return EngineChoice(float32_by_openvino=wanted)
    if not openvino_models.is_installed():
        log.warning("%s: networks run in ONNX Runtime, in float32", NOT_INSTALLED)
        return EngineChoice(why_not=NOT_INSTALLED)
    return EngineChoice(float32_by_openvino=wanted, bfloat16=True, bfloat16_always=precision == "bfloat16")
