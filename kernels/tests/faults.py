"""Planting faults: a copy of a source with one thing changed."""

from pathlib import Path

import attrs


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
