"""Imports of our modules by a module, read from its text."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Set
from pathlib import Path


def imported(name: str, path: Path, known: Set[str]) -> set[str]:
    """Modules among `known` that module `name` imports, also inside functions and for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        for candidates in _candidates(node, package):
            found |= {next((each for each in candidates if each in known), "")}
    return found - {"", name}


def _candidates(node: ast.AST, package: str) -> Iterator[list[str]]:
    """For each imported name the modules that it may be or come from, the most special first."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            parts = alias.name.split(".")
            yield [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, base]).rstrip(".")
        for alias in node.names:
            yield [f"{base}.{alias.name}", base]
