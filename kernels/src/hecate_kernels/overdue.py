"""A stranger's Python may go on for ever: it is ended in the line that runs, and that line is named."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Overdue(BaseException):
    """A block took longer than it may."""


@contextlib.contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Ends the block by Overdue once it has run for `seconds`, and again every second if that is caught.

    In the main thread alone, for no other is handed signals. Code that is not Python is ended when it returns.
    """
    if not _is_main():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Overdue(f"took longer than {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, end)
    outer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
        signal.signal(signal.SIGALRM, handler)


@contextlib.contextmanager
def not_counted() -> Iterator[None]:
    """Time that `ended_after` leaves out, for what has limits of its own."""
    left = signal.setitimer(signal.ITIMER_REAL, 0) if _is_main() else (0.0, 0.0)
    try:
        yield
    finally:
        if left[0]:
            signal.setitimer(signal.ITIMER_REAL, *left)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
