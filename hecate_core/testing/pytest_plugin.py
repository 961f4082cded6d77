"""The kit under pytest: `pytest --hecate` checks everything registered, `--hecate-plugin DIST` one distribution.

Each check of each member is a test of its own, `hecate::rule::delta::is-causal`. Without the options nothing is
imported and nothing changes.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hecate_core.testing.engine import Check


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("hecate", "conformance of memory components")
    group.addoption("--hecate", action="store_true", help="check every registered component")
    group.addoption("--hecate-plugin", metavar="DIST", help="check the components of one distribution")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test per member and check."""
    plugin = config.getoption("--hecate-plugin")
    if config.getoption("--hecate") or plugin:
        items.extend(_items(session, plugin))


def _items(session: pytest.Session, plugin: str | None) -> Iterator[pytest.Item]:
    from hecate_core.testing.everything import SUITES, members

    found = members(plugin)
    if not found:
        raise pytest.UsageError(f"--hecate-plugin {plugin}: it registers nothing that the kit can check")
    for kind, name in found:
        outcomes = Outcomes(kind, name)
        for check in SUITES[kind].names:
            title = f"hecate::{kind}::{name}::{check}"
            yield CheckItem.from_parent(session, name=title, check=check, outcomes=outcomes)


class Outcomes:
    """The checks of one member, run when the first of them is asked for."""

    def __init__(self, kind: str, name: str) -> None:
        self._kind, self._name = kind, name
        self._found: dict[str, Check] | None = None

    def of(self, check: str) -> "Check | None":
        """The outcome of a check, None where the member could not be made."""
        if self._found is None:
            from hecate_core.testing.everything import check_member

            self._found = {one.name: one for one in check_member(self._kind, self._name)}
        return self._found.get(check)


class CheckItem(pytest.Item):
    """One check as a test: passed, skipped where nothing is claimed, xfailed where a failure is declared."""

    def __init__(self, *, check: str, outcomes: Outcomes, **more: Any) -> None:
        super().__init__(**more)
        self._check, self._outcomes = check, outcomes

    def runtest(self) -> None:
        """Report what the engine found."""
        found = self._outcomes.of(self._check)
        if found is None:
            pytest.skip("the member could not be made")
        if found.outcome == "unasked":
            pytest.skip(found.reason)
        if found.outcome == "expected":
            pytest.xfail(found.reason)
        if not found.ok:
            pytest.fail(found.line, pytrace=False)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Where the test stands: nowhere but in the kit."""
        return self.path, None, self.name
