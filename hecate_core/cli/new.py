"""`hecate new`: a package of one's own, complete but for the method that is its idea."""

import keyword
import re
from importlib import resources
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hecate_core import files
from hecate_core.cli.output import Output
from hecate_core.errors import InputError, nearest
from hecate_core.registry import registry

Kind = Annotated[str, Argument(metavar="rule", help="What to begin: rule.")]
Name = Annotated[str, Argument(metavar="NAME", help="What it is called in configs: lower-case letters, digits, -.")]
Dir = Annotated[Path | None, Option("--dir", metavar="DIR", help="The package's folder (default: hecate-rule-NAME).")]

# What the package holds, and the template that each file is made from.
RULE = {
    ".github/workflows/test.yml": "workflow.yml.txt",
    ".gitignore": "gitignore.txt",
    "README.md": "readme.md.txt",
    "pyproject.toml": "pyproject.toml.txt",
    "src/<<package>>/__init__.py": "init.py.txt",
    "src/<<package>>/<<module>>.py": "rule.py.txt",
    "src/<<package>>/plugin.py": "plugin.py.txt",
    "src/<<package>>/py.typed": None,
    "src/<<package>>/specs/rules/<<name>>.md": "spec.md.txt",
    "tests/test_<<module>>.py": "test.py.txt",
}
TEMPLATES = {"rule": RULE}
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def new(output: Output, kind: Kind, name: Name, folder: Dir = None) -> None:
    """Begin a package for a component of your own: rule, specification, plugin, tests."""
    if kind not in TEMPLATES:
        raise InputError(f'hecate new: no template for "{kind}"{nearest(kind, TEMPLATES)}')
    words = words_for(name)
    place = Path(words["distribution"]) if folder is None else folder
    made = write_package(TEMPLATES[kind], words, place)
    source = place / f"src/{words['package']}/{words['module']}.py"
    lines = [
        f"package        {made}",
        f"to write       {words['class']}.step in {source}",
        f"then           pip install -e {place} && pytest {place}; docs/writing-a-rule.md goes through it",
    ]
    record = {"kind": kind, "name": name, "path": str(made), "to_write": f"{source}:{words['class']}.step"}
    output.result("hecate.packages/1", {"packages": [record]}, lines)


def words_for(name: str) -> dict[str, str]:
    """What stands for each placeholder; InputError for a name that no rule or module can have."""
    if not NAME.fullmatch(name):
        raise InputError(f'rule "{name}"; expected lower-case letters and digits, words joined by "-"')
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module == "plugin":
        raise InputError(f'rule "{name}": the name is taken by Python or by plugin.py; choose another')
    if name in registry().names("rule"):
        owner = registry().find("rule", name).origin.distribution
        raise InputError(f'rule "{name}" exists already, in {owner}; choose another name')
    return {
        "name": name,
        "module": module,
        "class": "".join(part.capitalize() for part in name.split("-")) + "Rule",
        "package": f"hecate_rule_{module}",
        "distribution": f"hecate-rule-{name}",
    }


def write_package(layout: dict[str, str | None], words: dict[str, str], place: Path) -> Path:
    """The files of `layout` at `place`, all or none; InputError where something is there already."""
    if place.exists():
        raise InputError(f"{place}: exists already; name another folder with --dir")
    templates = resources.files("hecate_core") / "templates" / "rule"

    def fill(root: Path) -> None:
        for target, template in layout.items():
            path = root / filled(target, words)
            files.make_folder(path.parent)
            text = "" if template is None else (templates / template).read_text(encoding="utf-8")
            files.add_file(path, filled(text, words).encode())

    files.make_folder(place.parent)
    return files.publish(place, fill)


def filled(text: str, words: dict[str, str]) -> str:
    """The text with every `<<placeholder>>` replaced."""
    for placeholder, word in words.items():
        text = text.replace(f"<<{placeholder}>>", word)
    return text
