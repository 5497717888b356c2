"""Writes measured figures into the documents: `python -m benchmarks.report benchmarks/results/NAME.json ...`.

The files are written by `lipsync bench --json`. docs/performance.md gets every figure, under the docstring of its benchmark's
module; README.md gets the headlines. The text between the markers is replaced, the rest stays.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.suite import module_name

TREE = Path(__file__).resolve().parent.parent
PERFORMANCE = TREE / "docs" / "performance.md"
README = TREE / "README.md"
COLUMNS = ("figure", "measured", "ratio", "goal", "reached")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

# For README.md: a benchmark, a figure without what its name has in parentheses, and its name there.
HEADLINES = (
    ("compositor", "spliced, reference", "paste and encode a frame of 1280x720, one core"),
    (
        "compositor",
        "spliced, a mouth of the rectangle's size",
        "the same with mouths in their rectangle's size, as they come from inference",
    ),
    ("services", "both services, 8 callers", "both services, 8 callers, a network that costs nothing"),
    ("services", "24 frames, demo network: extra time of two services", "time that two services add to one process, 24 frames"),
    ("live", "sessions kept in real time", "live sessions kept in real time by two processes, a network that costs nothing"),
    ("live", "first frame, p95", "first frame of a live session, from its sound, p95"),
    ("network", "OpenVINO, bfloat16, batch 4", "full-size network on the CPU, bfloat16"),
    ("network", "ONNX Runtime, float32, batch 4", "full-size network on the CPU, float32"),
    (
        "start",
        "full-size network, 523 frames: processes started to first frame",
        "both processes started to first frame, full-size network",
    ),
    ("gpu", "1 avatar, 4 callers: frames over gRPC", "full-size network on the GPU, 4 callers"),
)

Report = Mapping[str, Any]
"""The content of a file of `lipsync bench --json`: measured, machine, benchmarks."""


def rewrite(paths: Sequence[Path], documents: Sequence[Path] = (PERFORMANCE, README)) -> None:
    """Puts the figures of JSON files into docs/performance.md and README.md, or copies of them in that order."""
    reports = {_source(path): json.loads(path.read_text(encoding="utf-8")) for path in paths}
    for document, shown in zip(documents, (every_figure, headlines), strict=True):
        text = "\n\n".join(shown(report, source) for source, report in reports.items())
        document.write_text(with_figures(document.read_text(encoding="utf-8"), text), encoding="utf-8")


def _source(path: Path) -> str:
    """Returns the name of the file for the documents."""
    whole = path.resolve()
    return whole.relative_to(TREE).as_posix() if whole.is_relative_to(TREE) else whole.name


def with_figures(document: str, figures: str) -> str:
    """Puts `figures` between the document's markers. Raises ValueError unless it has each marker once, in order."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"the document must have {BEGIN} and then {END}, each once")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def every_figure(report: Report, source: str) -> str:
    """Writes a section with all figures that have a goal, and one for each benchmark."""
    sections = [_origin(report, source), _goals(report)]
    for name, result in report["benchmarks"].items():
        rows = [_row(figure["name"], figure) for figure in result["figures"]]
        parts = [f"### {name}", *filter(None, [_docstring(name)])]
        if result.get("error"):
            parts.append(f"Failed: {_cell(result['error'])}")
        if rows:
            parts.append(_table(rows))
        sections.append("\n\n".join(parts))
    return "\n\n".join(sections)


def _goals(report: Report) -> str:
    rows = [
        _row(f"{name}: {figure['name']}", figure)
        for name, result in report["benchmarks"].items()
        for figure in result["figures"]
        if "goal" in figure
    ]
    reached = sum(row[-1] == "yes" for row in rows)
    return f"### Goals\n\n{reached} of {len(rows)} are reached.\n\n{_table(rows)}" if rows else "No figure has a goal."


def headlines(report: Report, source: str) -> str:
    """Writes one table of the report's headlines."""
    rows = [
        _row(title, figure)
        for benchmark, name, title in HEADLINES
        for figure in report["benchmarks"].get(benchmark, {"figures": []})["figures"]
        if figure["name"].partition(" (")[0] == name
    ]
    machine = {key: report["machine"].get(key, []) for key in ("cpu", "cores", "gpus")}
    return f"{_table(rows)}\n\n{_origin({**report, 'machine': machine}, source)}"


def _origin(report: Report, source: str) -> str:
    return f"`make bench`, {report['measured'][:10]}, on {_machine(report['machine'])}. From `{source}`."


def _machine(machine: Mapping[str, Any]) -> str:
    parts = [f"{machine['cpu']}, {machine['cores']} cores"]
    if machine.get("cpu_flags"):
        parts[0] += f" ({' '.join(machine['cpu_flags'])})"
    parts += [f"{machine['memory_gb']:g} GB"] if "memory_gb" in machine else []
    parts += machine.get("gpus", [])
    parts += [f"Python {machine['python']}"] if "python" in machine else []
    return ", ".join([*parts, *(f"{name} {version}" for name, version in machine.get("packages", {}).items())])


def _docstring(benchmark: str) -> str:
    """Returns the docstring of the benchmark's module; nothing when there is no such module."""
    try:
        path = f"{module_name(benchmark).replace('.', '/')}.py"
        text = (TREE / "benchmarks" / path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    return ast.get_docstring(ast.parse(text)) or ""


def _row(title: str, figure: Mapping[str, Any]) -> tuple[str, ...]:
    value = f"{_number(figure['value'])} {_cell(figure['unit'])}"
    reached = {True: "yes", False: "**no**", None: ""}[figure.get("reached")]
    return (_cell(title), value, _ratio(figure), _cell(figure.get("goal", "")), reached)


def _ratio(figure: Mapping[str, Any]) -> str:
    if "ratio" not in figure:
        return ""
    other = figure.get("compared_with")
    return f"{figure['ratio']:.2f}x" + (f" {_cell(other)}" if other else "")


def _number(value: float) -> str:
    """Writes three significant digits."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def _cell(text: str) -> str:
    """Escapes text so that it cannot end its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Lays out the rows; a column without content is left out."""
    kept = [place for place, _ in enumerate(COLUMNS) if any(row[place] for row in rows)]
    lines = (COLUMNS, ["---"] * len(COLUMNS), *rows)
    return "\n".join(f"| {' | '.join(cells[place] for place in kept)} |" for cells in lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m benchmarks.report FILE.json ...")
    rewrite([Path(argument) for argument in sys.argv[1:]])
