"""`hecate new` and the author's guide: a package goes from red to green in an environment of its own."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from attrs import frozen

from hecate_core.cli.main import run
from hecate_core.cli.new import TEMPLATES, filled, words_for

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "writing-a-rule.md"
BLOCK = re.compile(r"^```(\w+)(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
PACKAGE = "hecate-rule-fading"
SOURCE = f"{PACKAGE}/src/hecate_rule_fading/fading.py"
SPEC = f"{PACKAGE}/src/hecate_rule_fading/specs/rules/fading.md"

# The commands of the environment; each runs under its python, so that it sees what is installed there.
COMMANDS = {"hecate": "-m hecate_core.cli", "pytest": "-m pytest", "hecate-lint": "-m hecate_lint"}


@frozen
class Workshop:
    """An empty folder and an environment that sees the packages of this one; nothing comes from the network."""

    folder: Path
    environment: Path

    @classmethod
    def at(cls, root: Path) -> "Workshop":
        made, shop = cls(root / "work", root / "environment"), root / "environment" / "bin"
        made.folder.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", made.environment], check=True)
        (site,) = made.environment.glob("lib/python*/site-packages")
        (site / "workspace.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
        for name, call in COMMANDS.items():
            (shop / name).write_text(f'#!/bin/sh\nexec "{shop}/python" {call} "$@"\n')
            (shop / name).chmod(0o755)
        return made

    def sh(self, script: str, status: int = 0) -> str:
        """What a script prints, both streams; it must end with `status`."""
        here = f"{self.environment / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_QUIET": "1"}
        passed_on = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "PYTHONPATH"))}
        ran = subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=self.folder,
            env={**passed_on, **offline, "PATH": here},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == status, f"{script}{ran.stdout}{ran.stderr}"
        return ran.stdout + ran.stderr

    def python(self, code: str) -> None:
        """Run code as a script."""
        (self.folder / "example.py").write_text(code)
        self.sh("python example.py")

    def write_method(self, code: str) -> None:
        """Put a function into the rule's module: over the one of that name, else at the end; imports go to the top."""
        lines = code.strip().splitlines()
        imports = [line for line in lines if line.startswith("from ")]
        new = [line for line in lines if line not in imports and (line or imports == [])]
        name = ast.parse("\n".join(new)).body[0].name  # type: ignore[attr-defined]
        path = self.folder / SOURCE
        old = path.read_text().splitlines()
        places = [one for one in ast.walk(ast.parse("\n".join(old))) if getattr(one, "name", None) == name]
        if places:
            (place,) = places
            indented = [" " * place.col_offset + line if line else line for line in new]  # type: ignore[attr-defined]
            old[place.lineno - 1 : place.end_lineno] = indented  # type: ignore[attr-defined]
        else:
            old += ["", "", *new]
        first = next(number for number, line in enumerate(old) if line.startswith("from hecate_core"))
        path.write_text("\n".join([*old[:first], *imports, *old[first:]]) + "\n")

    def write_contract(self, lines: str) -> None:
        """Put keys into the contract of the specification, over the lines that have them."""
        path = self.folder / SPEC
        text = path.read_text()
        for line in lines.strip().splitlines():
            key = line.split(" = ")[0]
            text, found = re.subn(rf"^{key} = .*$", lambda _, line=line: line, text, flags=re.MULTILINE)  # type: ignore[misc]
            assert found == 1, line
        path.write_text(text)


def test_the_authors_guide_holds_from_top_to_bottom(tmp_path: Path) -> None:
    """The package is red on one named thing, green after its one method, and can be used and made fast."""
    shop, said = Workshop.at(tmp_path), ""
    for language, more, content in BLOCK.findall(GUIDE.read_text()):
        if language == "sh":
            said = shop.sh(content, status=1 if "status=1" in more else 0)
        elif language == "text":
            assert [line for line in content.splitlines() if line not in said] == [], said
        elif language == "toml":
            shop.write_contract(content)
        elif "run" in more:
            shop.python(content)
        else:
            shop.write_method(content)
        if "status=1" in more:
            assert said.count("FAILED") == 1, said
    assert "passed" in said


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_package_is_whole_and_no_placeholder_is_left(here: Path) -> None:
    assert run(["new", "rule", "my-own-2"]) == 0
    package = here / "hecate-rule-my-own-2"
    files = {str(one.relative_to(package)): one.read_text() for one in package.rglob("*") if one.is_file()}
    assert files.keys() == {filled(path, words_for("my-own-2")) for path in TEMPLATES["rule"]}
    assert [path for path, text in files.items() if "<<" in text] == []
    assert files["src/hecate_rule_my_own_2/my_own_2.py"].count("NotImplementedError") == 1
    compile(files["tests/test_my_own_2.py"], "test", "exec")
    for tool in ("check", "format --check"):
        subprocess.run([sys.executable, "-m", "ruff", *tool.split(), package], check=True, capture_output=True)


def test_every_template_is_used() -> None:
    used = {name for layout in TEMPLATES.values() for name in layout.values() if name}
    assert used == {one.name for one in (ROOT / "hecate_core" / "templates" / "rule").iterdir()}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["ruel", "mine"], 'no template for "ruel"; did you mean "rule"?'),
        (["rule", "Mine"], 'rule "Mine"; expected lower-case letters'),
        (["rule", "../mine"], "expected lower-case letters"),
        (["rule", "import"], "taken by Python"),
        (["rule", "plugin"], "plugin.py"),
        (["rule", "delta"], 'rule "delta" exists already, in hecate-linear'),
        (["rule", "mine", "--dir", "here"], "here: exists already; name another folder with --dir"),
    ],
)
def test_what_cannot_be_begun_is_refused_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    (here / "here").mkdir()
    assert run(["new", *words]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1
    assert [one.name for one in here.iterdir()] == ["here"], "nothing was written"


ANOTHER = '''"""Half as fast: a Hebbian memory that writes at half the rate."""

from hecate_core.api import ComposedRule, Dot, GradientDescent, Matrix, ScalarDecay


def slower() -> ComposedRule:
    """M_t = retain M_{t-1} + write v_t k_t^T with write up to 1/2."""
    return ComposedRule(
        "slower", structure=Matrix(), bias=Dot(), retention=ScalarDecay(), algorithm=GradientDescent(),
        spec="rules/slower.md", narrow={"write": {"high": 0.5, "init": 0.25}},
    )
'''
LINE = '        ("rule", "slower", "hecate_linear.slower:slower"),\n'
LOOK = """
import hecate_linear
from hecate_core.registry import registry
from hecate_core.testing import check_member
assert hecate_linear.__file__.startswith({folder!r}), hecate_linear.__file__
assert "slower" in registry().names("rule") and "delta" in registry().names("rule")
print(*(check.line for check in check_member("rule", "slower") if not check.ok), sep="\\n")
"""


def test_adding_a_rule_inside_a_family_changes_one_existing_line(tmp_path: Path) -> None:
    """A new file and a line in plugin.py: the registry has it, and the kit finds nothing wrong."""
    family = tmp_path / "linear"
    shutil.copytree(ROOT / "plugins" / "linear", family, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    before = contents(family)
    package = family / "src" / "hecate_linear"
    (package / "slower.py").write_text(ANOTHER)
    plugin = package / "plugin.py"
    plugin.write_text(plugin.read_text().replace("    ]\n", f"{LINE}    ]\n"))
    after = contents(family)
    assert {path for path in before if before[path] != after[path]} == {"src/hecate_linear/plugin.py"}
    one, two = (set(side["src/hecate_linear/plugin.py"].splitlines(keepends=True)) for side in (before, after))
    assert (one - two, two - one) == (set(), {LINE})

    place = str(package.parent)
    ran = subprocess.run(
        [sys.executable, "-c", LOOK.format(folder=place)],
        env={**os.environ, "PYTHONPATH": place, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stdout + ran.stderr


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
