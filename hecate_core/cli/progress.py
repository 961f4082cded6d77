"""How a run gets on, in numbers: loss, tokens per second (mean and worst step), time left."""

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Told about every step; shows what it likes."""

    def step(self, *, loss: float, tokens: int, seconds: float) -> None:
        """One optimizer step was done: its loss in nats, its tokens and the seconds it took."""
        ...

    def close(self) -> None:
        """The run is over, or is given up."""
        ...


class Pace:
    """The numbers behind the line; the worst step is the one with the fewest tokens per second."""

    def __init__(self, steps: int, *, done: int = 0) -> None:
        self.steps = steps
        self.done = done
        self.loss = float("nan")
        self._counted = 0
        self._tokens = 0
        self._seconds = 0.0
        self._worst = float("inf")

    def count(self, loss: float, tokens: int, seconds: float) -> None:
        """Take one step in."""
        self.done += 1
        self.loss = loss
        self._counted += 1
        self._tokens += tokens
        self._seconds += seconds
        self._worst = min(self._worst, tokens / max(seconds, 1e-9))

    def line(self) -> str:
        """`step 20/300  loss 3.214  12.1k tokens/s (worst step 8.0k)  00:42 left`."""
        mean = self._tokens / max(self._seconds, 1e-9)
        left = (self.steps - self.done) * self._seconds / max(self._counted, 1)
        return (
            f"step {self.done}/{self.steps}  loss {self.loss:.4f}  "
            f"{_rate(mean)} tokens/s (worst step {_rate(self._worst)})  {clock(left)} left"
        )


class LineProgress:
    """A plain line every `interval` steps and at the last one: for files, pipes and CI."""

    def __init__(self, steps: int, *, interval: int, write: Callable[[str], None], done: int = 0) -> None:
        self.pace = Pace(steps, done=done)
        self.interval = interval
        self.write = write

    def step(self, *, loss: float, tokens: int, seconds: float) -> None:
        """Count a step, and write a line where one is due."""
        self.pace.count(loss, tokens, seconds)
        if self.pace.done % self.interval == 0 or self.pace.done == self.pace.steps:
            self.write(self.pace.line())

    def close(self) -> None:
        """Nothing is left open."""


def clock(seconds: float) -> str:
    """Seconds as `mm:ss` or `h:mm:ss`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _rate(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"
