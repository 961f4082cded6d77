"""PT-15: parameter groups decided by what a parameter happens to be called."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, constant
from hecate_lint.index import ancestors, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word

_PATTERNS = ("bias", "norm", "ln_", "embed", "bn", "gamma", "beta", "scale")


class NamePatternParameterGroups(Rule):
    """Weight decay or learning rate is decided by a substring of the parameter's name.

    SMELL. `[p for n, p in m.named_parameters() if "bias" in n]`, `n.endswith("norm.weight")`.

    WHY. A renamed or wrapped module changes its group without an error, and a layer called `debias` is a bias.

    FIX. Decide by module type with an explicit list.

    TRACE. PyTorch rule PT-15.
    """

    id = "PT-15"
    name = "name-pattern-parameter-groups"
    group = "torch"
    severity = "info"
    words = frozenset({"named_parameters"})
    why = "renaming or wrapping a module moves its parameters to another group without an error"
    mend = "decide by module type: isinstance(module, nn.LayerNorm)"

    VALID = """
no = [p for mod in m.modules() if isinstance(mod, nn.LayerNorm) for p in mod.parameters()]
# ---
named = [n for n, _ in m.named_parameters()]
# ---
for n, p in m.named_parameters():
    if "bias" in n:
        print(n)
# ---
rows = [r for r in table if "bias" in r]
# ---
total = {n: p.numel() for n, p in m.named_parameters() if p.requires_grad}
"""
    INVALID = """
no = [p for n, p in m.named_parameters() if "bias" in n]  # <-
# ---
decay = [p for n, p in m.named_parameters() if not n.endswith("norm.weight")]  # <-
# ---
groups = {"decay": [], "rest": []}
for name, p in model.named_parameters():
    if "bias" in name or "norm" in name:  # <-
        groups["rest"].append(p)
    else:
        groups["decay"].append(p)
# ---
no_decay = ["bias", "LayerNorm.weight"]
params = [p for n, p in m.named_parameters() if any(nd in n for nd in no_decay)]  # <-
# ---
def split(m):
    for n, p in m.named_parameters():
        if n.startswith("embed"):  # <-
            p.weight_decay = 0.0
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for node in file.index.word("named_parameters"):
            for at in ancestors(node):
                if isinstance(at, (ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)):
                    yield from self._comprehension(at)
                    break
                if isinstance(at, ast.For):
                    if node in walk(at.iter):
                        yield from self._loop(at)
                    break
                if isinstance(at, ast.stmt):
                    break

    def _comprehension(self, comp: Any) -> Iterator[Hit]:
        generator = comp.generators[0]
        name, value = _pair(generator.target)
        made = comp.value if isinstance(comp, ast.DictComp) else comp.elt
        keeps = any(isinstance(n, ast.Name) and n.id == value for n in walk(made)) and not isinstance(made, ast.Call)
        for test in generator.ifs if name and keeps else ():
            if _by_name(test, name):
                yield Hit(
                    test,
                    f"a group is decided by what `{name}` contains",
                    "likely",
                )

    def _loop(self, loop: ast.For) -> Iterator[Hit]:
        name, value = _pair(loop.target)
        for branch in walk(loop):
            if name and isinstance(branch, ast.If) and _by_name(branch.test, name):
                decides = any(
                    (
                        isinstance(n, ast.Call)
                        and last_word(n) in ("append", "add")
                        and any(last_word(a) == value for a in n.args)
                    )
                    or (
                        isinstance(n, ast.Attribute)
                        and n.attr in ("weight_decay", "lr", "lr_scale")
                        and isinstance(n.ctx, ast.Store)
                    )
                    for stmt in branch.body
                    for n in walk(stmt)
                )
                if decides:
                    yield Hit(branch.test, f"a group is decided by what `{name}` contains", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Comparison() | m.Call() | m.UnaryOperation() | m.BooleanOperation()


def _pair(target: ast.expr) -> tuple[str, str]:
    if isinstance(target, ast.Tuple) and len(target.elts) == 2 and isinstance(target.elts[0], ast.Name):
        return target.elts[0].id, last_word(target.elts[1])
    return "", ""


def _by_name(test: ast.expr, name: str) -> bool:
    for node in walk(test):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            if last_word(node.comparators[0]) == name and parent(node) is not None:
                text = constant(node.left)
                if text is None or (isinstance(text, str) and any(p in text.lower() for p in _PATTERNS)):
                    return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and last_word(node.func.value) == name:
            text = constant(node.args[0]) if node.args else None
            if node.func.attr in ("endswith", "startswith") and isinstance(text, str):
                return any(p in text.lower() for p in _PATTERNS)
    return False
