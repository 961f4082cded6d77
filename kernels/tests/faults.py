"""Planting faults: a copy of a source with one thing changed."""

from pathlib import Path

import attrs
from hecate_kernels import child
from hecate_kernels.check import check_pair
from hecate_kernels.flatten import DEVICE
from hecate_kernels.pair import CheckedPair

LIMITS = child.Limits(wall_s=60, cpu_s=60)


@attrs.frozen
class Fault:
    """One planted fault: what is replaced (the n-th occurrence) and what must find it."""

    name: str
    old: str
    new: str
    nth: int = 0
    found_by: tuple[str, ...] = ("numbers", "address", "race")

    def plant(self, source: Path, folder: Path) -> Path:
        """Copies the source's folder of device code and changes the source; the change must be one."""
        text = source.read_text()
        assert text.count(self.old) > self.nth, f"{self.name}: the source has no {self.old!r}"
        parts = text.split(self.old)
        changed = self.old.join(parts[: self.nth + 1]) + self.new + self.old.join(parts[self.nth + 1 :])
        for beside in source.parent.glob("*.cuh"):
            (folder / beside.name).write_text(beside.read_text())
        target = folder / source.name
        target.write_text(changed)
        return target


def plant(fault: Fault, file: Path, source: Path, folder: Path) -> Path:
    """A copy of a pair's sources with the fault in `file`; returns the `.cu`."""
    for beside in [*source.parent.glob("*.cuh"), source]:
        (folder / beside.name).write_text(beside.read_text())
    fault.plant(file, folder)
    return folder / source.name


def assert_found(pair: CheckedPair, checks: tuple[str, ...] = ("numbers", "address", "race")) -> str:
    """The net finds the fault, in the planted sources or a device header, and not because it fails to compile."""
    lines = check_pair("planted", pair, checks=checks, limits=LIMITS)
    found = next((line.text for line in lines if not line.good), "")
    assert found.startswith((str(pair.kernels.source.parent), str(DEVICE))), found
    assert "(g++)" not in found, "a fault that does not compile was not planted"
    return found
