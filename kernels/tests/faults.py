"""Planting faults: a copy of a pair's sources with one thing changed, and what has to find it."""

import copy
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import attrs
from hecate_kernels import child
from hecate_kernels.check import check_pair
from hecate_kernels.flatten import DEVICE
from hecate_kernels.pair import CheckedPair, Kernel, Trial

LIMITS = child.Limits(wall_s=60, cpu_s=60)
AFTER, BEFORE = "barrier missing after a write", "barrier missing before an overwrite"
DIVERGENT, PAST = "divergent barrier", "write past shared memory"
SIGN, STALE, BLOCKS = "wrong gradient sign", "stale state", "race between blocks"
KINDS = (AFTER, BEFORE, DIVERGENT, PAST, SIGN, STALE, BLOCKS)
OTHER = "other"


@attrs.frozen
class Fault:
    """One planted fault: what is replaced (the n-th occurrence) in which file of the pair.

    `case` begins the name of the covering case that has to fail; `name` tells faults of a kind apart.
    """

    kind: str
    old: str
    new: str
    nth: int = 0
    name: str = ""
    file: str = ""  # beside the .cu; the .cu itself where it is empty
    case: str = ""
    found_by: tuple[str, ...] = ("numbers", "address", "race")

    def __str__(self) -> str:
        return ", ".join(word for word in (self.kind if self.kind != OTHER else "", self.name) if word)

    def plant(self, source: Path, folder: Path) -> Path:
        """Copies the source and the headers beside it, the fault in one of them; returns the `.cu`."""
        for beside in [*source.parent.glob("*.cuh"), source]:
            (folder / beside.name).write_text(beside.read_text())
        target = folder / (self.file or source.name)
        parts = target.read_text().split(self.old)
        assert len(parts) > self.nth + 1, f"{self}: {target.name} has no {self.old!r}"
        target.write_text(self.old.join(parts[: self.nth + 1]) + self.new + self.old.join(parts[self.nth + 1 :]))
        return folder / source.name


class Planted:
    """A pair whose sources lie elsewhere, with the covering cases whose names begin as given."""

    def __init__(self, pair: CheckedPair, source: Path, case: str = "") -> None:
        self._pair, self._case = copy.copy(pair), case
        self._pair.kernels = self.kernels = attrs.evolve(pair.kernels, source=source)

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """The case that has to fail, under every dtype and layout that it comes in."""
        found = [trial for trial in self._pair.trials(False) if trial.name.startswith(self._case)]
        assert found, f"no covering case begins with {self._case!r}"
        return found

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """Those of the pair."""
        return self._pair.specialisations(shared_limit)


def planted_in(op: str) -> tuple[Fault, ...]:
    """The faults that are planted into the sources of an op's pair."""
    found: tuple[Fault, ...] = import_module(f"planted.{op}").PLANTED
    return found


def assert_found(pair: CheckedPair, checks: tuple[str, ...] = ("numbers", "address", "race")) -> str:
    """The net finds the fault, in the planted sources or a device header, and not because it fails to compile."""
    lines = check_pair("planted", pair, checks=checks, limits=LIMITS)
    told = (line.text for line in lines if line.ran and not line.good)
    found = next((text for text in told if not text.endswith("so it was not checked")), "")  # one case is few
    assert found.startswith((str(pair.kernels.source.parent), str(DEVICE))), found
    assert "(g++)" not in found, "a fault that does not compile was not planted"
    return found
