"""FL-05: an annotation that the default contradicts."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import parent
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import decorators, last_word

_CLASSES = frozenset({"dataclass", "define", "frozen", "mutable", "attrs", "s", "attributes"})
_OPEN = frozenset({"Optional", "None", "Any", "object", "Union", "T"})


class DishonestRequiredField(Rule):
    """A field or parameter says `int` and defaults to `None`.

    SMELL. `dim: int = None` in a dataclass, an attrs or pydantic class, or a parameter list.

    WHY. What looks required is not: the missing value surfaces as `NoneType` arithmetic far from the config
    that forgot it.

    FIX. Drop the default, or say `int | None`.

    TRACE. Fail-loud rule FL-05.
    """

    id = "FL-05"
    name = "dishonest-required-field"
    group = "fail-loud"
    severity = "warn"
    fix_kind = "unsafe"
    why = "what the annotation calls required is optional, and the missing value fails far from where it was forgotten"
    mend = "drop the default, or annotate `| None`"

    VALID = """
@dataclass
class C:
    dim: int
# ---
def f(path: str | None = None): ...
# ---
from typing import Optional
def f(path: Optional[str] = None): ...
# ---
def f(x: "int | None" = None, y: object = None, z=None): ...
# ---
class Plain:
    cache: dict = None
# ---
from typing import Any
def f(x: Any = None): ...
# ---
Path = Optional[str]
MaybeInt = int | None
def f(x: Path = None, y: MaybeInt = None): ...
"""
    INVALID = """
@dataclass
class C:
    dim: int = None  # <-
# ---
def f(heads: int = None): ...  # <-
# ---
import attrs
@attrs.define
class C:
    width: int = None  # <-
# ---
from pydantic import BaseModel
class Config(BaseModel):
    name: str = None  # <-
# ---
class A:
    def build(self, *, sizes: list[int] = None):  # <-
        return sizes
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for function in file.index.functions:
            args = function.args
            plain = [*args.posonlyargs, *args.args]
            pairs = list(zip(plain[len(plain) - len(args.defaults) :], args.defaults, strict=True))
            pairs += [(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is not None]
            for arg, default in pairs:
                if arg.annotation is not None and _is_none(default) and not _is_open(file, arg.annotation):
                    message = f"`{arg.arg}: {ast.unparse(arg.annotation)}` defaults to None"
                    yield Hit(arg.annotation, message, data=ast.unparse(arg.annotation))
        for field in file.index.all(ast.AnnAssign):
            cls = parent(field)
            if isinstance(cls, ast.ClassDef) and _is_none(field.value) and not _is_open(file, field.annotation):
                if _is_record(file, cls) and "ClassVar" not in ast.unparse(field.annotation):
                    message = f"`{last_word(field.target)}: {ast.unparse(field.annotation)}` defaults to None"
                    yield Hit(field.annotation, message, data=ast.unparse(field.annotation))

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Name() | m.Attribute() | m.Subscript() | m.SimpleString() | m.BinaryOperation()

    def fix(self, node: Any, hit: Hit) -> Any:
        return None if isinstance(hit.node, ast.Constant) else f"{hit.data} | None"


def _is_none(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_open(file: File, annotation: ast.expr) -> bool:
    """Whether an annotation admits None, as far as this file tells; a name of its own alias may."""
    text = ast.unparse(annotation)
    if any(word in text for word in _OPEN if len(word) > 1) or text == "T":
        return True
    if isinstance(annotation, ast.Name):
        for binder in file.names.bound(annotation) or []:
            value = getattr(binder, "value", None)
            if isinstance(binder, (ast.Assign, ast.AnnAssign)) and value is not None:
                return True  # an alias: what it admits is said elsewhere
            if isinstance(binder, ast.alias) and not annotation.id[:1].isupper():
                return True
    return text[:1] in "'\"" and "None" in text


def _is_record(file: File, cls: ast.ClassDef) -> bool:
    bases = {base.rsplit(".", 1)[-1] for base in file.bases(cls)}
    return bool(_CLASSES & set(decorators(cls))) or "BaseModel" in bases
