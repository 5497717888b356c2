"""What commands draw: tables on stdout, progress on stderr, so that output can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Report = Callable[[str, int, int], None]
"""Told of progress: what is being done, how much is done, of how much."""


PIPED_WIDTH = 200


class RateColumn(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate over the last moments, or over all when done."""
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:.1f} {self.unit}/s", style="progress.data.speed")


@contextmanager
def progress_bar(unit: str) -> Iterator[Report]:
    """A bar for each thing that is told of, with rate and remaining time."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as progress:
        bars = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        yield report


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Prints a table; columns whose name begins with '>' are aligned to the right. Without names there is no head."""
    drawn = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, show_header=any(columns))
    for column in columns:
        drawn.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)  # a file has no edge to fold lines at
    console.print(drawn)
