"""Tables on stdout and progress bars on stderr, so that output can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import ROUNDED, SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressDisplay
from rich.table import Table
from rich.text import Text

from shared_proto.timing import FRAME_RATE

if TYPE_CHECKING:  # it imports the client, which most commands that print a table do not need
    from lipsync_cli.talk_figures import TalkFigures

from avatar_tools.progress import Progress

PIPED_WIDTH = 200
_REFRESHES_A_SECOND = 8


class RateColumn(ProgressColumn):
    """A column of a progress bar: frames a second."""

    def render(self, task: Task) -> Text:
        """Shows the current rate, or the mean rate of finished work."""
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:.1f} frames/s", style="progress.data.speed")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Shows a bar for each work that is reported, with rate and remaining time."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with ProgressDisplay(*columns, console=console) as display:
        bars = {}

        def report(work: str, done: int, total: int) -> None:
            if work not in bars:
                bars[work] = display.add_task(work, total=total)
            display.update(bars[work], completed=done, total=total)

        yield report


@contextmanager
def live_figures(title: str) -> Iterator[Callable[[TalkFigures], None]]:
    """Shows the figures of a live session in place, on a terminal alone."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda figures: None
        return
    with Live(console=console, refresh_per_second=_REFRESHES_A_SECOND, transient=True) as live:
        yield lambda figures: live.update(_panel(title, figures))


def _panel(title: str, figures: TalkFigures) -> Panel:
    state = Text("● speaks", style="bold green") if figures.speaking else Text("○ idle", style="dim")
    clock = f"{figures.frames // (60 * FRAME_RATE)}:{figures.frames / FRAME_RATE % 60:04.1f}"
    head = Text.assemble(state, "  ", (clock, "bold"), "  ", (figures.levels, "cyan"))
    grid = Table.grid(padding=(0, 2))
    good, bad = "green", "bold red"
    cells = [
        ("first frame", f"{1000 * (figures.first_frame_s or 0):.0f} ms", good),
        ("frames/s", f"{figures.frames_per_s:.1f}", good if figures.frames_per_s > 0.95 * FRAME_RATE else bad),
        ("late", str(figures.late_frames), bad if figures.late_frames else good),
        ("stalls", str(figures.stalls), bad if figures.stalls else good),
        ("drift", f"{figures.drift_ms:+.0f} ms", good if abs(figures.drift_ms) < 1000 / FRAME_RATE else bad),
        ("resumed", str(figures.resumes), bad if figures.resumes else good),
    ]
    grid.add_row(*(Text.assemble((f"{name} ", "dim"), (value, style)) for name, value, style in cells))
    return Panel(Group(head, grid), title=title, title_align="left", box=ROUNDED, expand=False)


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
