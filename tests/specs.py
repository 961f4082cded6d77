"""Specifications as tests see them: files with a CONTRACT block, their examples, the components they speak of."""

import re
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from attrs import frozen

from hecate_core.registry import registry
from hecate_core.registry.origin import Component

ROOT = Path(__file__).parents[1] / "specs"

# Kinds whose mathematics stands in a specification; a pair and a sink are not mathematics of their own.
SPECIFIED = ("rule", "structure", "bias", "retention", "algorithm", "strategy", "composition", "optimizer", "task")

_CONTRACT = re.compile(r"^```CONTRACT\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


@frozen
class Spec:
    """One file that describes one component."""

    path: Path
    text: str
    contract: dict[str, Any]

    @property
    def address(self) -> tuple[str, str, str]:
        """Distribution, kind and name."""
        return self.contract["distribution"], self.contract["kind"], self.contract["name"]

    @property
    def sections(self) -> list[str]:
        """Its headings of the second order."""
        return _SECTION.findall(self.text)

    @property
    def examples(self) -> list[str]:
        """Its python blocks, to be executed one after the other in one namespace."""
        return examples_of(self.text)


def examples_of(text: str) -> list[str]:
    """The python blocks of a Markdown text, moved down so that a traceback names the line of the file."""
    return ["\n" * text.count("\n", 0, one.start(1)) + one.group(1) for one in _EXAMPLE.finditer(text)]


def read(path: Path) -> Spec | None:
    """The specification in a file, or None where it has no CONTRACT block (prose about forms, levels)."""
    text = path.read_text(encoding="utf-8")
    found = _CONTRACT.findall(text)
    assert len(found) <= 1, f"{path}: {len(found)} CONTRACT blocks"
    return Spec(path, text, tomllib.loads(found[0])) if found else None


def specs_in(folder: Path) -> list[Spec]:
    """Every specification below a folder, by path."""
    found = [read(path) for path in sorted(folder.rglob("*.md"))]
    return [one for one in found if one is not None]


@cache
def components() -> tuple[Component, ...]:
    """Every registered component that wants a specification."""
    found = [one for plugin in registry().plugins() for one in plugin.components if one.kind in SPECIFIED]
    return tuple(sorted(found))


def package_specs(component: Component) -> Path:
    """The folder `specs` of the package that a component lives in: the same in a wheel and in a source tree."""
    package = component.target.split(":")[0].split(".")[0]
    return Path(str(resources.files(package))) / "specs"


@cache
def installed_spec(component: Component) -> Spec:
    """The specification that a component's own package carries, found by its CONTRACT."""
    wanted = (component.origin.distribution, component.kind, component.name)
    folder = package_specs(component)
    found = [one for one in specs_in(folder) if one.address == wanted]
    assert found, f"{component.address} ({component.kind}): no CONTRACT for it below {folder}; see specs/README.md"
    assert len(found) == 1, f"{component.address}: described twice, {[str(one.path) for one in found]}"
    return found[0]
