"""Writes measured figures into the documents: `python -m benchmarks.report benchmarks/results/NAME.json ...`.

A file is what `lipsync bench --json` writes. docs/performance.md gets every figure, under what its benchmark's module says of
itself; README.md gets those that have a goal. What stands between the markers is replaced, the rest is left alone.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parent.parent
PERFORMANCE = TREE / "docs" / "performance.md"
README = TREE / "README.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

Report = Mapping[str, Any]
"""What `lipsync bench --json` writes: measured, machine, benchmarks."""


def rewrite(paths: Sequence[Path], documents: Sequence[Path] = (PERFORMANCE, README)) -> None:
    """Puts the figures of JSON files into docs/performance.md and README.md, or copies of them in that order."""
    reports = {_source(path): json.loads(path.read_text(encoding="utf-8")) for path in paths}
    for document, shown in zip(documents, (every_figure, figures_with_goals), strict=True):
        text = "\n\n".join(shown(report, source) for source, report in reports.items())
        document.write_text(with_figures(document.read_text(encoding="utf-8"), text), encoding="utf-8")


def _source(path: Path) -> str:
    """Where the documents say that their figures are from."""
    whole = path.resolve()
    return whole.relative_to(TREE).as_posix() if whole.is_relative_to(TREE) else whole.name


def with_figures(document: str, figures: str) -> str:
    """The document with `figures` between its markers. Raises ValueError unless it has each marker once, in order."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"the document must have {BEGIN} and then {END}, each once")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def every_figure(report: Report, source: str) -> str:
    """A section for each benchmark."""
    sections = [_origin(report, source)]
    for name, result in report["benchmarks"].items():
        rows = [
            (_cell(figure["name"]), _value(figure), _ratio(figure), _cell(figure.get("goal", "")), _reached(figure))
            for figure in result["figures"]
        ]
        parts = [f"### {name}", *filter(None, [_account(name)])]
        if result.get("error"):
            parts.append(f"Failed: {_cell(result['error'])}")
        if rows:
            parts.append(_table(("figure", "measured", "ratio", "goal", "reached"), rows))
        sections.append("\n\n".join(parts))
    return "\n\n".join(sections)


def figures_with_goals(report: Report, source: str) -> str:
    """One table of what a goal was set for."""
    rows = [
        (f"{name}: {_cell(figure['name'])}", _value(figure), _ratio(figure), _cell(figure["goal"]), _reached(figure))
        for name, result in report["benchmarks"].items()
        for figure in result["figures"]
        if figure.get("goal")
    ]
    return f"{_table(('figure', 'measured', 'ratio', 'goal', 'reached'), rows)}\n\n{_origin(report, source)}"


def _origin(report: Report, source: str) -> str:
    return f"`make bench`, {report['measured'][:10]}, on {_machine(report['machine'])}. From `{source}`."


def _machine(machine: Mapping[str, Any]) -> str:
    parts = [f"{machine['cpu']}, {machine['cores']} cores"]
    if machine.get("cpu_flags"):
        parts[0] += f" ({' '.join(machine['cpu_flags'])})"
    parts += [f"{machine['memory_gb']:g} GB", *machine.get("gpus", [])]
    packages = machine.get("packages", {})
    parts += [f"Python {machine['python']}", *(f"{name} {version}" for name, version in packages.items())]
    return ", ".join(parts)


def _account(benchmark: str) -> str:
    """What the benchmark's module says of itself; nothing when it is not there any more."""
    try:
        text = (TREE / "benchmarks" / f"{benchmark}.py").read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    return ast.get_docstring(ast.parse(text)) or ""


def _value(figure: Mapping[str, Any]) -> str:
    return f"{_number(figure['value'])} {_cell(figure['unit'])}"


def _ratio(figure: Mapping[str, Any]) -> str:
    if "ratio" not in figure:
        return ""
    other = figure.get("compared_with")
    return f"{figure['ratio']:.2f}x" + (f" {_cell(other)}" if other else "")


def _reached(figure: Mapping[str, Any]) -> str:
    return {True: "yes", False: "**no**", None: ""}[figure.get("reached")]


def _number(value: float) -> str:
    """Three digits that mean something, and no more."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def _cell(text: str) -> str:
    """Text that cannot end its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_lines(columns, rows))


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    kept = [place for place, _ in enumerate(columns) if any(row[place] for row in rows)]
    yield from (f"| {' | '.join(cells[place] for place in kept)} |" for cells in (columns, ["---"] * len(columns), *rows))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m benchmarks.report FILE.json ...")
    rewrite([Path(argument) for argument in sys.argv[1:]])
