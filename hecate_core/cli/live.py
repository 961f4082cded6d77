"""A moving progress line on a terminal, by rich; colours end where `NO_COLOR` is set."""

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from hecate_core.cli.progress import Pace


class LiveProgress:
    """One line that is redrawn at every step; the last state stays on the screen."""

    def __init__(self, steps: int, *, done: int = 0, console: Console | None = None) -> None:
        self.pace = Pace(steps, done=done)
        self.bar = Bar(
            BarColumn(bar_width=24), TextColumn("{task.description}"), console=console or Console(stderr=True)
        )
        self.task = self.bar.add_task("", total=steps, completed=done)
        self.bar.start()

    def step(self, *, loss: float, tokens: int, seconds: float) -> None:
        """Count a step and redraw."""
        self.pace.count(loss, tokens, seconds)
        self.bar.update(self.task, completed=self.pace.done, description=self.pace.line())

    def close(self) -> None:
        """Leave the line as it is and give the terminal back."""
        self.bar.stop()
