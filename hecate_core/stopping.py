"""Being asked to stop: SIGINT and SIGTERM wait until the run is between two steps.

A step changes parameters one by one, so that a checkpoint taken in the middle of one is worth nothing.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hecate_core.errors import Terminated


class Stop:
    """Whether somebody asked; `obey` raises where it is convenient, `at_once` lets the signal itself raise."""

    def __init__(self) -> None:
        self._asked: int | None = None
        self._at_once = False

    def signalled(self, number: int, _: FrameType | None) -> None:
        """The handler: the first signal is remembered, a second one raises wherever the program stands."""
        again, self._asked = self._asked is not None, number
        if again or self._at_once:
            self.obey()

    def obey(self) -> None:
        """Raise KeyboardInterrupt (Terminated for SIGTERM) if a signal came."""
        if self._asked == signal.SIGTERM:
            raise Terminated
        if self._asked is not None:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Nothing changes in the body: a signal need not wait."""
        self._at_once = True
        try:
            self.obey()
            yield
        finally:
            self._at_once = False


def terminated(_: int, __: FrameType | None) -> None:
    """The handler of a program that has nothing to end: SIGTERM raises where the program stands, as SIGINT does."""
    raise Terminated


def hear_sigterm() -> None:
    """From now on SIGTERM raises Terminated, where it would have ended the process without a word."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminated)


@contextmanager
def stopping() -> Iterator[Stop]:
    """A Stop that hears SIGINT and SIGTERM in the body.

    Outside the main thread, or where the program has handlers of its own, those stay and nothing is heard.
    """
    stop, before = Stop(), {}
    ordinary: dict[int, tuple[Any, ...]] = {
        signal.SIGINT: (signal.default_int_handler,),
        signal.SIGTERM: (signal.SIG_DFL, terminated),
    }
    if threading.current_thread() is threading.main_thread():
        for number, handlers in ordinary.items():
            if signal.getsignal(number) in handlers:
                before[number] = signal.signal(number, stop.signalled)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
