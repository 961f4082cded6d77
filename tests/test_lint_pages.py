"""What the linter's pages import from Hecate is there; the linter itself may not look."""

import ast
import re
from importlib import import_module
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_name_that_an_example_imports_from_us_exists() -> None:
    seen, missing = 0, []
    for page in sorted([*DOCS.glob("*.md"), *(DOCS / "lint-rules").glob("*.md")]):
        for example in EXAMPLE.findall(page.read_text(encoding="utf-8")):
            for line in re.findall(r"^from (?:hecate_core|hecate_lint)[\w.]* import .*$", example, re.MULTILINE):
                (node,) = ast.parse(line).body
                assert isinstance(node, ast.ImportFrom)
                seen += 1
                module = import_module(str(node.module))
                missing += [f"{page.name}: {line}" for alias in node.names if not hasattr(module, alias.name)]
    assert missing == []
    assert seen >= 5
