"""Writes the generated pages: `python -m hecate_lint.docs FOLDER` (the rules, their table, the coverage table)."""

import os
import sys

from hecate_lint import explain, registry
from hecate_lint.conformance import coverage
from hecate_lint.rule import Rule


def pages(rules: list[Rule]) -> dict[str, str]:
    """Every generated page by its path below the documentation folder."""
    found = {f"lint-rules/{rule.id}.md": explain.page(rule) for rule in rules}
    found["lint-rules.md"] = explain.overview(rules)
    found["lint-coverage.md"] = coverage.table(rules)
    return found


def main(folder: str) -> None:
    """Write the pages of the rules that travel with this distribution."""
    for name, text in pages(registry.built_in()).items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)


if __name__ == "__main__":
    main(sys.argv[1])
