"""What this machine is, for the doctor and beside every figure that was measured on it."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from avatar_kit.cores import usable_cores

PACKAGES = ("grpcio", "numpy", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless", "av", "protobuf")
# Instruction sets that change the speed of the network by more than a little.
CPU_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "sve")
NVIDIA_SMI_TIMEOUT_S = 10.0


def describe() -> dict[str, object]:
    """Everything that a figure depends on."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "cpu_flags": cpu_flags(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": gpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(),
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Those of CPU_FLAGS that this processor has; empty where the system does not tell."""
    have = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [flag for flag in CPU_FLAGS if flag in have]


def gpus() -> list[str]:
    """NVIDIA GPUs as nvidia-smi names them: name, memory, driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)  # noqa: S603 - a fixed command
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def package_versions() -> dict[str, str]:
    """Versions of the installed ones of PACKAGES."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _cpuinfo(key: str) -> str:
    """The first value of `key` in the system's description of its processors, empty when there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key)
    return next(values, "")
