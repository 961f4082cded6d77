"""Every number of a record as a scalar in an event file.

Spec: specs/sinks/tensorboard.md. Written by hand: the format is two checksums around a few protobuf fields.
"""

import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hecate_core.api import append_bytes
from hecate_tensorboard.events import scalars_event, version_event

FOLDER = "tensorboard"


class TensorBoard:
    """A sink: `RUN/tensorboard/events.out.tfevents...`, a new file for every start of the run.

    Scalars are the finite numbers of a record; truth values and lists are left out. Final scores have the tag
    `final/NAME`.
    """

    spec = "sinks/tensorboard.md"

    def __init__(self) -> None:
        self._file: Path | None = None

    def begin(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Open a file of events in the run's folder."""
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = folder / FOLDER / name
        append_bytes(self._file, version_event(now))

    def write(self, record: Mapping[str, Any]) -> None:
        """One event with every scalar of the record, at its step."""
        assert self._file is not None, "begin comes first"
        prefix = "final/" if record.get("final") else ""
        scalars = {
            prefix + name: float(value)
            for name, value in record.items()
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        tokens, seconds = record.get("tokens"), record.get("seconds")
        if tokens and seconds:
            scalars["tokens_per_second"] = tokens / seconds
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        if finite:
            append_bytes(self._file, scalars_event(time.time(), int(record["step"]), finite))

    def close(self) -> None:
        """Nothing is held back."""
