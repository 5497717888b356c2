"""The processor and GPUs of this machine."""

from __future__ import annotations

import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

# Instruction sets that change the speed of the network by more than a little.
CPU_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "sve")
NVIDIA_SMI_TIMEOUT_S = 10.0


def cpu_model() -> str:
    """Returns the processor's name as the system gives it, with its family and model, which tell more."""
    name = _cpuinfo("model name")
    family, model = _cpuinfo("cpu family"), _cpuinfo("model")
    if name and family and model:
        return f"{name} (family {family}, model {model})"
    return name or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Returns those of CPU_FLAGS that this processor has; none where the system does not list them."""
    have = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [flag for flag in CPU_FLAGS if flag in have]


def python_is_optimised() -> bool:
    """Tells if this Python was compiled with optimisations, as distributions compile theirs. True where nobody can tell."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS")
    return arguments is None or "--enable-optimizations" in arguments or sys.base_prefix == "/usr"


def gpus() -> list[str]:
    """Returns a line for each NVIDIA GPU, as nvidia-smi prints it: name, memory, driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)  # noqa: S603 - a fixed command
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _cpuinfo(key: str) -> str:
    """Returns the first value of `key` in /proc/cpuinfo, or an empty text."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key)
    return next(values, "")
