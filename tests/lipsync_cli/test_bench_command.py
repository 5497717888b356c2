"""`lipsync bench`: runs modules of the source tree, shows their figures, goes on after a failure."""

from __future__ import annotations

import json
import sys

import pytest

from lipsync_cli import benching

GOOD = """
def run():
    return [
        {"name": "paste and encode", "value": 0.21, "unit": "ms",
         "ratio": 7.1, "compared_with": "whole picture", "goal": ">= 6x", "reached": True},
        {"name": "plain", "value": 1234.5678, "unit": "frames/s"},
    ]
"""
BROKEN = "def run():\n    raise RuntimeError('the service did not start')\n"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A source tree with two benchmarks that the command finds in place of the real one."""
    folder = tmp_path / "tree" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()  # without it the real package, wherever it is on the path, would come first
    (folder / "compositor.py").write_text(GOOD)
    (folder / "network.py").write_text(BROKEN)
    monkeypatch.setattr(benching, "source_tree", lambda: folder.parent)
    monkeypatch.setattr(sys, "path", [str(folder.parent), *sys.path])
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "benchmarks"}
    yield folder.parent
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]
    sys.modules.update(real)


def test_figures_on_screen_and_in_a_file(run, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    report = tmp_path / "report.json"
    result = run("bench", "compositor", "--json", report)
    assert result.exit_code == 0, result.output
    for words in ("paste and encode", "0.21 ms", "7.10x whole picture", ">= 6x", "yes", "1235 frames/s"):
        assert words in result.stdout
    written = json.loads(report.read_text())
    assert written["benchmarks"]["compositor"]["figures"][0]["ratio"] == 7.1
    assert written["machine"]["cores"] >= 1
    assert written["machine"]["packages"]["numpy"]


def test_a_benchmark_that_fails_does_not_hide_the_others(run, tree, tmp_path):
    report = tmp_path / "report.json"
    result = run("bench", "network", "compositor", "--json", report)
    assert result.exit_code == 1
    assert "paste and encode" in result.stdout
    assert "error: network failed: RuntimeError: the service did not start" in result.stderr
    assert json.loads(report.read_text())["benchmarks"]["network"]["error"] == "RuntimeError: the service did not start"


def test_unknown_and_missing_names_are_refused_before_anything_runs(run, tree):
    assert "there is no benchmark 'speed'; there are compositor" in run("bench", "compositor", "speed").stderr
    missing = run("bench", "compositor", "audio")
    assert missing.exit_code == 1
    assert "benchmarks/audio.py is missing" in missing.stderr


def test_an_installation_without_benchmarks_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(benching, "__file__", str(tmp_path / "site-packages" / "lipsync_cli" / "benching.py"))
    result = run("bench")
    assert result.exit_code == 1
    assert "they come with the source tree" in result.stderr


def test_the_import_benchmark_lies_in_a_module_whose_name_is_no_keyword(run, tree):
    (tree / "benchmarks" / "importing.py").write_text(GOOD)
    result = run("bench", "import")
    assert result.exit_code == 0, result.output
    assert "paste and encode" in result.stdout
