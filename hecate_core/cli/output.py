"""Where a command's words go: results to stdout (as lines or one JSON object), the rest to stderr."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from hecate_core.cli.progress import LineProgress, Progress


class Output:
    """The two streams of a command; with `as_json` stdout holds exactly one JSON object."""

    def __init__(self, *, as_json: bool = False, debug: bool = False) -> None:
        self.as_json = as_json
        self.debug = debug

    def result(self, schema: str, records: Mapping[str, Any], lines: Iterable[str]) -> None:
        """The result: `records` (plural name to list) under `schema` as JSON, or `lines` as text.

        A schema is named `hecate.<records>/<version>`; keys may be added within a version.
        """
        if self.as_json:
            json.dump({"schema": schema, **records}, sys.stdout, allow_nan=False)
            sys.stdout.write("\n")
        else:
            sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()

    def text(self, piece: str) -> None:
        """A piece of a result that grows while one watches; nothing under `as_json`."""
        if not self.as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    def note(self, line: str) -> None:
        """One line beside the result, on stderr."""
        tell(line)

    def progress(self, steps: int, *, interval: int, done: int = 0) -> Progress:
        """How a run gets on: a moving line on a terminal, a plain line per `interval` steps elsewhere."""
        if is_terminal(sys.stderr):
            from hecate_core.cli.live import LiveProgress  # rich: only who watches a terminal pays

            return LiveProgress(steps, done=done)
        return LineProgress(steps, interval=interval, done=done, write=tell)


def tell(line: str) -> None:
    """One line on stderr; a reader who has gone is no reason to fail."""
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody watches the stream on a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
