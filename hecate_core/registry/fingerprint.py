"""Digest of a plugin's files: two installs with equal digests run the same code.

It covers every file of the package in which a plugin module lives (sources, kernels, specs, data),
so an editable install and a wheel of the same tree agree; byte code does not count.
"""

import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

SKIPPED = frozenset({"__pycache__"})
SKIPPED_SUFFIXES = frozenset({".pyc", ".pyo"})


class Digests:
    """Digests of packages, each read once: a process goes on with what it imported, whatever is written later."""

    def __init__(self) -> None:
        self._lines: dict[Path, bytes] = {}

    def of(self, modules: Iterable[str]) -> str:
        """SHA-256 in hex over the packages of these modules, paths and contents in sorted order."""
        total = hashlib.sha256()
        for root in sorted({_root(module) for module in modules}):
            if root not in self._lines:
                self._lines[root] = _contents(root)
            total.update(self._lines[root])
        return total.hexdigest()


def _contents(root: Path) -> bytes:
    return b"".join(
        f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode() for name, path in _files(root)
    )


def _root(module: str) -> Path:
    """The folder of the outermost regular package of a module, or its file where there is none."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        spec = importlib.util.find_spec(".".join(parts[:length]))
        if spec is not None and spec.origin and spec.has_location:
            origin = Path(spec.origin)
            return origin.parent if spec.submodule_search_locations is not None else origin
    raise ModuleNotFoundError(f"{module} has no file", name=module)


def _files(root: Path) -> list[tuple[str, Path]]:
    if root.is_file():
        return [(root.name, root)]
    found = [
        (f"{root.name}/{path.relative_to(root).as_posix()}", path)
        for path in root.rglob("*")
        if path.is_file() and path.suffix not in SKIPPED_SUFFIXES and not SKIPPED & set(path.parts)
    ]
    return sorted(found)
