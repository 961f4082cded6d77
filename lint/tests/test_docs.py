"""Generated pages are those in the repository; what the guide shows is what the linter does."""

from pathlib import Path

import pytest

from hecate_lint.cli import main
from hecate_lint.docs import pages
from hecate_lint.registry import built_in

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(pages(built_in())))
def test_generated_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == pages(built_in())[name], "python -m hecate_lint.docs docs"


def test_no_page_of_a_rule_that_is_gone() -> None:
    assert {path.stem for path in (DOCS / "lint-rules").iterdir()} == {rule.id for rule in built_in()}


def test_guide_shows_what_the_linter_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (
        (DOCS / "lint.md").read_text(encoding="utf-8").split("## What a finding looks like")[1].split("Severity:")[0]
    )
    source, rest = section.split("```python\n")[1].split("```", 1)
    shown = [line.removeprefix("    ") for line in rest.splitlines() if line.startswith("    ")]
    monkeypatch.chdir(tmp_path)
    Path("memory.py").write_text(source)
    assert main(["--no-cache", "memory.py"]) == 1
    assert capsys.readouterr().out.splitlines()[: len(shown)] == shown


def test_guide_names_every_option_and_key() -> None:
    from hecate_lint.cli import parser
    from hecate_lint.settings import _READERS

    guide = (DOCS / "lint.md").read_text(encoding="utf-8")
    options = [one for action in parser()._actions for one in action.option_strings if one not in ("-h", "--help")]
    assert [one for one in options if f"`{one}" not in guide] == []
    assert [key for key in _READERS if f"`{key.replace('_', '-')}`" not in guide] == []
