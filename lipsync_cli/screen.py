"""Tables on stdout and progress bars on stderr, so that output can be piped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressDisplay
from rich.table import Table
from rich.text import Text

from avatar_tools.progress import Progress

PIPED_WIDTH = 200


class RateColumn(ProgressColumn):
    """A column of a progress bar: units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Shows the current rate, or the mean rate of finished work."""
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:.1f} {self.unit}/s", style="progress.data.speed")


@contextmanager
def progress_bar(unit: str) -> Iterator[Progress]:
    """Shows a bar for each work that is reported, with rate and remaining time."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with ProgressDisplay(*columns, console=console) as display:
        bars = {}

        def report(work: str, done: int, total: int) -> None:
            if work not in bars:
                bars[work] = display.add_task(work, total=total)
            display.update(bars[work], completed=done, total=total)

        yield report


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Prints a table. A column whose name begins with '>' is aligned to the right; empty names give no header."""
    drawn = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, show_header=any(columns))
    for column in columns:
        drawn.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)  # lines of a file need no folding
    console.print(drawn)
