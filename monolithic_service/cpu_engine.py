"""Says what would run networks on this CPU without configuration, for the doctor."""

from __future__ import annotations

from dataclasses import dataclass

from inference_service.engines import openvino_models
from inference_service.engines.devices import DeviceError


@dataclass(frozen=True)
class CpuEngine:
    """The program that runs networks, and the reason why it is not a quicker one."""

    told: str
    advice: str = ""
    """A way to make it quicker; "": none."""


def cpu_engine() -> CpuEngine:
    """Looks at the processor, and loads OpenVINO where it would be used."""
    if not openvino_models.processor_has_bfloat16():
        return CpuEngine("ONNX Runtime in float32: this processor has no bfloat16 (AMX or AVX512_BF16)")
    try:
        openvino_models.core()
    except DeviceError as error:
        advice = "the extra `cpu` has OpenVINO, which would use this processor's bfloat16: about twice as fast"
        return CpuEngine(f"ONNX Runtime in float32: {error}", advice)
    arithmetic = openvino_models.arithmetic("bfloat16")
    return CpuEngine(f"{arithmetic}, which this processor has; ONNX Runtime in float32 where that would be seen")
