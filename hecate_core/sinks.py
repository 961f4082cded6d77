"""Sinks: components that are told every record of a run, beside its own `metrics.jsonl`. They change no number."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from hecate_core.registry import registry
from hecate_core.run_folder import load_manifest


class Sink(Protocol):
    """What a run tells: `begin` once at every start (a resume too), `write` per record, `close` however it ends.

    A record is plain values with `step`; the last has `final`. An error that a sink raises ends the run as a full
    disk does.
    """

    def begin(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """The run's folder and manifest, before the first record."""
        ...

    def write(self, record: Mapping[str, Any]) -> None:
        """One record; it may not be changed."""
        ...

    def close(self) -> None:
        """No record comes any more."""
        ...


def sinks_of(names: Sequence[str]) -> list[Sink]:
    """The sinks of these names; InputError for one that nobody provides."""
    return [registry().create("sink", name) for name in names]


@contextmanager
def told(sinks: Sequence[Sink], folder: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that tells all of them a record; they are begun before the body and closed after it."""
    for sink in sinks:
        sink.begin(folder, load_manifest(folder))

    def tell(record: dict[str, Any]) -> None:
        for sink in sinks:
            sink.write(record)

    try:
        yield tell
    finally:
        for sink in sinks:
            sink.close()
