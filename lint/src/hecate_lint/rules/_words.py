"""What the rules about vocabulary share: identifiers that a file defines, split into words, never substrings.

Names from elsewhere are exempt: attribute reads, calls on torch objects, keywords of foreign calls, overrides of a
base class's method.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hecate_lint.facts import File, split_words
from hecate_lint.index import class_of, parent
from hecate_lint.model import Hit
from hecate_lint.names import parameters
from hecate_lint.rule import Rule


@dataclass(frozen=True)
class Defined:
    """One identifier that the file defines: the node to report, its text, and what it names."""

    node: ast.AST
    text: str
    kind: str  # class, function, method, name, attribute, argument

    @property
    def words(self) -> list[str]:
        """The identifier's words in lower case."""
        return split_words(self.text)


class WordsRule(Rule):
    """Base of the vocabulary rules: subclasses say which defined identifiers are wrong, and what to say instead."""

    group = "strict-ontology"
    severity = "warn"
    default = False

    def wrong(self, file: File, defined: Defined) -> str:
        """What is wrong with an identifier; empty when nothing is."""
        return ""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Every defined identifier that `wrong` has something to say about."""
        for defined in definitions(file):
            message = self.wrong(file, defined)
            if message:
                yield Hit(defined.node, f"`{defined.text}` {message}", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        """Whatever defines a name, or the statement or call that a subclass reports."""
        named = m.ClassDef() | m.FunctionDef() | m.Param() | m.Name() | m.Attribute()
        return named | m.Call() | m.If() | m.Assign() | m.AnnAssign() | m.Dict() | m.Tuple()


def definitions(file: File) -> Iterator[Defined]:
    """Every identifier that the file defines, in source order of its kinds."""
    for cls in file.index.all(ast.ClassDef):
        yield Defined(cls, cls.name, "class")
    for function in file.index.functions:
        owner = parent(function)
        if isinstance(owner, ast.ClassDef):
            if not _may_override(file, owner, function.name):
                yield Defined(function, function.name, "method")
        else:
            yield Defined(function, function.name, "function")
        for arg in parameters(function.args):
            yield Defined(arg, arg.arg, "argument")
    for name in file.index.all(ast.Name):
        if isinstance(name.ctx, ast.Store):
            yield Defined(name, name.id, "name")
    for attribute in file.index.all(ast.Attribute):
        own = isinstance(attribute.value, ast.Name) and attribute.value.id == "self"
        if own and isinstance(attribute.ctx, ast.Store):
            yield Defined(attribute, attribute.attr, "attribute")


def bases(file: File, cls: ast.ClassDef | None) -> set[str]:
    """The last words of all bases of a class."""
    return {base.rsplit(".", 1)[-1] for base in file.bases(cls)} if cls is not None else set()


def owner_bases(file: File, node: ast.AST) -> set[str]:
    """The bases of the class around a node."""
    return bases(file, class_of(node))


def _may_override(file: File, owner: ast.ClassDef, name: str) -> bool:
    """A method of a class whose base is elsewhere may be called what the base calls it."""
    foreign = {base for base in file.bases(owner) if base.rsplit(".", 1)[-1] not in file.classes}
    known = {"train", "eval", "training_step", "validation_step", "training_epoch_end", "training"}
    return bool(foreign) and name in known
