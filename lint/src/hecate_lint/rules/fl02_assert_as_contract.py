"""FL-02: a promise to callers that `python -O` takes back."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, constant
from hecate_lint.index import ancestors, class_of, function_of, parent, walk
from hecate_lint.model import Hit
from hecate_lint.names import parameters
from hecate_lint.rule import Rule
from hecate_lint.syntax import decorators, last_word


class AssertAsContract(Rule):
    """An argument of a public function is checked by `assert`.

    SMELL. `assert x.dtype == ...` on a parameter of a public function or method, outside tests.

    WHY. `python -O` removes it, and until then the caller gets an AssertionError that names no argument.

    FIX. `if not ...: raise ValueError(...)`; `--fix` writes it where the message has no side effects.

    TRACE. Fail-loud rule FL-02.
    """

    id = "FL-02"
    name = "assert-as-contract"
    group = "fail-loud"
    severity = "warn"
    fix_kind = "safe"
    why = "python -O removes the check, and without -O the caller gets an error that is not meant for callers"
    mend = "raise ValueError (TypeError for a type) with a message that names the argument"

    VALID = """
def quantize(x):
    if x.dtype != torch.bfloat16:
        raise TypeError(f"want bfloat16, got {x.dtype}")
    return x
# ---
def _merge(a):
    b = a.sort()
    assert len(b) == len(a)
    return b
# ---
def read(path):
    rows = load(path)
    assert rows is not None
    return rows
# ---
def pick(x=None):
    if x is None:
        x = 1
    assert x is not None
    return x
# ---
@triton.jit
def kernel(BLOCK):
    assert BLOCK > 0
# ---
def outer(x):
    def inner(y):
        assert y > 0
    return inner(x)
"""
    INVALID = """
def quantize(x):
    assert x.dtype == torch.bfloat16, "bf16 only"  # <-
    return x
# ---
class Rdep:
    def __init__(self, profile):
        assert profile in PROFILES  # <-
# ---
def scale(x, factor):
    assert isinstance(factor, float)  # <-
    return x * factor
# ---
class Layer(nn.Module):
    def forward(self, x, *, mask):
        if self.fast:
            assert mask.shape == x.shape, f"{mask.shape}"  # <-
        return x
# ---
async def serve(port):
    assert 0 < port < 65536, "port out of range"  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for check in file.index.all(ast.Assert):
            function = function_of(check)
            if function is None or not _is_public(function) or last_word(check.test) == "assert_never":
                continue
            names = {arg.arg for arg in parameters(function.args)} - {"self", "cls"}
            read = [n for n in walk(check.test) if isinstance(n, ast.Name) and n.id in names]
            if not read or _is_narrowing(check.test) or constant(check.test) is False:
                continue
            if any(
                isinstance(n, ast.Name) and n.id == read[0].id and isinstance(n.ctx, ast.Store) for n in walk(function)
            ):
                continue
            fixable = check.msg is None or isinstance(check.msg, ast.Constant)
            yield Hit(check, f"`{read[0].id}`, an argument of `{function.name}`, is checked by assert", fixable=fixable)

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Assert()

    def fix(self, node: Any, hit: Hit) -> Any:
        check = hit.node
        if not isinstance(check, ast.Assert) or getattr(parent(check), "lineno", 0) == check.lineno:
            return None
        import libcst as cst

        if not isinstance(node.semicolon, cst.MaybeSentinel):
            return None
        condition = cst.Module([]).code_for_node(node.test)
        if "\n" in condition or "\r" in condition or "#" in condition:
            return None
        is_type = isinstance(check.test, ast.Call) and last_word(check.test) in ("isinstance", "issubclass")
        simple = isinstance(check.test, (ast.Call, ast.Name, ast.Attribute))
        text = repr(check.msg.value) if isinstance(check.msg, ast.Constant) else repr(f"expected {condition}")
        error = "TypeError" if is_type else "ValueError"
        return f"if not {condition if simple else f'({condition})'}: raise {error}({text})"


def _is_public(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether strangers call it: no underscore in its name or its class, not nested, no kernel."""
    if any(isinstance(at, (ast.FunctionDef, ast.AsyncFunctionDef)) for at in ancestors(function)):
        return False
    if any("jit" in word or "kernel" in word for word in decorators(function)):
        return False
    cls = class_of(function)
    if cls is not None and cls.name.startswith("_"):
        return False
    return not function.name.startswith("_") or function.name in ("__init__", "__call__")


def _is_narrowing(test: ast.expr) -> bool:
    """`x is not None` narrows a type; it promises nothing."""
    if isinstance(test, ast.BoolOp):
        return all(map(_is_narrowing, test.values))
    return (
        isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot) and constant(test.comparators[0]) is None
    )
