"""The files of this repository, and its Python modules."""

from __future__ import annotations

import subprocess
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
_NOT_OURS = {".git", ".venv", ".venv-proto", ".venv-node", ".venv-adapters", ".venv-supply", "build", "models", "out"}


def files() -> list[Path]:
    """Those under version control; without one, all that are no products of a build."""
    if (TREE / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=TREE, capture_output=True, check=True, text=True).stdout
        found = [TREE / name for name in listed.split("\0") if name]
    else:
        found = [path for path in TREE.rglob("*") if not _NOT_OURS & set(path.relative_to(TREE).parts)]
    return sorted(path for path in found if path.is_file())


def modules() -> dict[str, Path]:
    """Every Python module of ours by its dotted name; a package is its `__init__`. Tests are no modules that others import.

    Names begin in the folder of the distribution, which has a pyproject.toml.
    """
    named = {}
    projects = {path.parent for path in files() if path.name == "pyproject.toml"}
    for path in files():
        relative = path.relative_to(next(folder for folder in path.parents if folder in projects))
        if path.suffix == ".py" and relative.parts[0] != "tests" and len(relative.parts) > 1:
            parts = relative.with_suffix("").parts
            named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named
