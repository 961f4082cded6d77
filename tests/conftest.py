"""Fixtures that several test files share."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FakeDistribution = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path` like site-packages; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(folder)) or name.endswith("_plugin"):
            del sys.modules[name]


@pytest.fixture
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process registry is made anew inside the test, and the old one stands again afterwards."""
    monkeypatch.setattr("hecate_core.registry.lookup._default", [])


@pytest.fixture
def distribution(site: Path) -> FakeDistribution:
    """Install a fake distribution: `distribution("acme", source, entry_points=..., version="1.0")`.

    Its package is `acme_plugin`, its plugin module `acme_plugin.plugin` has the given source.
    """

    def install(name: str, source: str, *, entry_points: str | None = None, version: str = "1.0") -> Path:
        package = f"{name.replace('-', '_')}_plugin"
        (site / package).mkdir(exist_ok=True)
        (site / package / "__init__.py").write_text("")
        (site / package / "plugin.py").write_text(source)
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        points = f"[hecate]\n{name} = {package}.plugin\n" if entry_points is None else entry_points
        (info / "entry_points.txt").write_text(points)
        return site / package

    return install
