"""An installation holds what its extras promise, and the command says which extra is missing."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lipsync_cli.extras import EXTRAS

TREE = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text())
PATTERNS = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
# Those without a star are packages beside which there are other projects.
FOLDERS = {pattern.removesuffix("*"): "rglob" if pattern.endswith("*") else "glob" for pattern in PATTERNS}
OF_CALLERS = ["lipsync_client", "shared_proto"]
# A namespace that many share.
DISTRIBUTIONS = {"google": ["protobuf", "googleapis-common-protos"], "livekit": ["livekit-agents"]}


def third_party(packages: Iterable[str]) -> set[str]:
    """Top modules that are neither Python's nor ours."""
    folders = [(TREE / package.replace(".", "/"), FOLDERS[package]) for package in packages]
    trees = [ast.parse(path.read_text()) for folder, found in folders for path in getattr(folder, found)("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - set(FOLDERS)


def brought(requirements: list[str]) -> set[str]:
    """Distributions that are named, by themselves or by an extra of ours."""
    found = set()
    for requirement in map(Requirement, requirements):
        if requirement.name == PROJECT["project"]["name"]:
            for extra in requirement.extras:
                found |= brought(PROJECT["project"]["optional-dependencies"][extra])
        else:
            found.add(requirement.name)
    return found


BASE = brought(PROJECT["project"]["dependencies"])
# `lipsync talk --audio mic` says how to install it, in no extra since it needs a library of the system.
NAMED_WHEN_MISSING = {"sounddevice"}
# What pydantic is made of comes with it.
TOGETHER = {"pydantic": {"annotated-types", "pydantic-core"}}


@cache
def installed() -> Mapping[str, list[str]]:
    """By top module: the distributions that hold it."""
    return packages_distributions()


def distributions(module: str) -> set[str]:
    return {name.lower().replace("_", "-") for name in DISTRIBUTIONS.get(module) or installed()[module]}


def test_the_base_installation_holds_what_callers_import() -> None:
    assert all(distributions(module) <= BASE for module in third_party(OF_CALLERS))


def test_every_other_module_that_we_import_has_an_extra() -> None:
    modules = third_party(FOLDERS) - NAMED_WHEN_MISSING
    others = {module for module in modules if not distributions(module) & BASE}
    assert others <= {module for modules in EXTRAS.values() for module in modules}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_is_said_of_it(extra: str) -> None:
    there = brought(PROJECT["project"]["optional-dependencies"][extra])
    there |= {name for each in there for name in TOGETHER.get(each, ())}
    for module in EXTRAS[extra]:
        assert distributions(module) & there, module


def run_without(lacking: Iterable[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The `lipsync` command where these modules are not installed."""
    script = (
        "import sys\n"
        "lacking, sys.argv[1:] = sys.argv[1].split(','), sys.argv[2:]\n"
        "sys.modules.update(dict.fromkeys(lacking))\n"
        "from lipsync_cli.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, ",".join(lacking), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=TREE)


@pytest.mark.parametrize(
    ("lacking", "arguments", "extra"),
    [
        (["cli"], ["--help"], "cli"),
        (["services", "cpu"], ["serve", "inference"], "services"),
        (["services", "cpu"], ["serve", "compositing"], "services"),
        (["services", "cpu"], ["serve", "all"], "services"),
        (["services", "cpu"], ["demo"], "services"),
        (["services", "cpu"], ["avatar", "verify", "anna"], "services"),
        (["services", "cpu"], ["avatar", "list"], "services"),
        (["services", "gateway", "cpu"], ["serve", "gateway"], "services"),
        (["gateway"], ["serve", "gateway"], "gateway"),
        (["gateway"], ["serve", "all"], "gateway"),
        (["cpu"], ["serve", "inference"], "cpu"),
        (["cpu"], ["serve", "all"], "cpu"),
    ],
    ids=str,
)  # fmt: skip
def test_a_command_says_which_extra_it_needs(lacking: list[str], arguments: list[str], extra: str) -> None:
    done = run_without([module for each in lacking for module in EXTRAS[each]], *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: this needs ")
    assert f"pip install 'lipsync-serving[{extra}]'" in line


def test_rendering_needs_no_more_than_the_command(tmp_path: Path) -> None:
    done = run_without(
        [*EXTRAS["services"], *EXTRAS["cpu"]], "render", "--avatar", "anna", "--audio", "no.wav", "--out", "no.mp4"
    )
    assert done.returncode == 1
    assert "no.wav" in done.stderr


def test_the_load_tester_needs_no_more_than_the_command() -> None:
    done = run_without([*EXTRAS["services"], *EXTRAS["cpu"]], "bench", "stream", "--avatar", "anna", "--server", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "UNAVAILABLE" in done.stderr
