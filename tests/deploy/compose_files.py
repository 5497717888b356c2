"""The compose files, read without docker-compose: what `extends` brings in and what later files change."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

TREE = Path(__file__).resolve().parents[2]
MAIN = "docker-compose.yml"
GPU = "docker-compose.override.yml"
CPU = "deploy/compose/cpu.yml"
TLS = "deploy/compose/tls.yml"
MULTI = "deploy/compose/multi-inference.yml"
MULTI_TLS = "deploy/compose/multi-inference-tls.yml"
SHARED_LIMITS = "deploy/compose/shared-limits.yml"
GPU_PER_INSTANCE = "deploy/compose/gpu-per-instance.yml"

# What is offered, by what it is for.
COMBINATIONS = {
    "gpu": (MAIN, GPU),
    "gpu, no reservation": (MAIN,),
    "cpu": (MAIN, CPU),
    "gpu, tls": (MAIN, GPU, TLS),
    "cpu, tls": (MAIN, CPU, TLS),
    "gpu, several": (MAIN, GPU, MULTI),
    "cpu, several": (MAIN, CPU, MULTI),
    "cpu, several, tls": (MAIN, CPU, MULTI, TLS, MULTI_TLS),
    "a GPU each": (MAIN, MULTI, GPU_PER_INSTANCE),
    "gpu, shared limits": (MAIN, GPU, SHARED_LIMITS),
    "cpu, shared limits, tls": (MAIN, CPU, SHARED_LIMITS, TLS),
}


# Lists that a later file gives as a whole.
REPLACED = {"command", "entrypoint"}


def project(files: tuple[str, ...]) -> dict[str, Any]:
    """All of them merged, with variables as they stand."""
    whole: dict[str, Any] = {}
    for file in files:
        content = dict(_content(file))
        content["services"] = {name: _extended(file, service) for name, service in content["services"].items()}
        whole = _merged(whole, content)
    return whole


def services(files: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The services of `project`."""
    found: dict[str, dict[str, Any]] = project(files)["services"]
    return found


@cache
def _content(file: str) -> dict[str, Any]:
    """Returns the content of one file. Not to be changed."""
    content: dict[str, Any] = yaml.safe_load((TREE / file).read_text())
    return content


def _extended(file: str, service: dict[str, Any]) -> dict[str, Any]:
    if "extends" not in service:
        return service
    source = service["extends"].get("file", file)
    base = _content(source)["services"][service["extends"]["service"]]
    return _merged(_extended(source, base), {key: value for key, value in service.items() if key != "extends"})


def _merged(base: Any, later: Any) -> Any:
    match base, later:
        case dict(), dict():
            return base | {
                key: _merged(base[key], value) if key in base and key not in REPLACED else value for key, value in later.items()
            }
        case list(), list():
            return [*base, *later]
        case _:
            return later
