"""`lipsync bench`: runs modules of the source tree, shows their figures, goes on after a failure."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest

from benchmarks.suite import NAMES, module_name
from lipsync_cli import benching


def good():
    return [
        {"name": "paste and encode", "value": 0.21, "unit": "ms",
         "ratio": 7.1, "compared_with": "whole picture", "goal": ">= 6x", "reached": True},
        {"name": "plain", "value": 1234.5678, "unit": "frames/s"},
    ]  # fmt: skip


def broken():
    raise RuntimeError("the service did not start")


@pytest.fixture
def two_benchmarks(monkeypatch):
    """Modules in place of real ones, which take minutes."""
    for name, run_it in (("compositor", good), ("importing", good), ("network", broken)):
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", SimpleNamespace(run=run_it))


def test_figures_on_screen_and_in_a_file(two_benchmarks, run, tmp_path, monkeypatch):
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


def test_a_benchmark_that_fails_does_not_hide_the_others(two_benchmarks, run, tmp_path):
    report = tmp_path / "report.json"
    result = run("bench", "network", "compositor", "--json", report)
    assert result.exit_code == 1
    assert "paste and encode" in result.stdout
    assert "error: network failed: RuntimeError: the service did not start" in result.stderr
    assert json.loads(report.read_text())["benchmarks"]["network"]["error"] == "RuntimeError: the service did not start"


def test_unknown_names_are_refused_before_anything_runs(two_benchmarks, run):
    result = run("bench", "compositor", "speed")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no benchmark 'speed'; there are compositor" in result.stderr


def test_an_installation_without_benchmarks_says_so(two_benchmarks, run, tmp_path, monkeypatch):
    monkeypatch.setattr(benching, "__file__", str(tmp_path / "site-packages" / "lipsync_cli" / "benching.py"))
    result = run("bench")
    assert result.exit_code == 1
    assert "they come with the source tree" in result.stderr


def test_the_import_benchmark_is_in_a_module_whose_name_is_no_keyword(two_benchmarks, run):
    result = run("bench", "import")
    assert result.exit_code == 0, result.output
    assert "paste and encode" in result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_each_name_has_its_benchmark_and_is_in_the_help(run, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delitem(sys.modules, f"benchmarks.{module_name(name)}", raising=False)
    assert callable(import_module(f"benchmarks.{module_name(name)}").run)
    assert name in run("bench", "--help").stdout
