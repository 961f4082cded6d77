"""KN-04: a kernel pair that does not say what it promises."""

import ast
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hecate_lint.facts import File, arguments, constant
from hecate_lint.index import parent
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, strings_in

if TYPE_CHECKING:
    from hecate_lint.conformance.project import Project, Remark

_GLOBAL = Pattern(r"__global__\s+(?:void\s+)?(?:__launch_bounds__\s*\([^)]*\)\s*)?(?:void\s+)?(\w+)\s*\(")
_INCLUDE = Pattern(r'^\s*#\s*include\s+"([^"]+)"', re.M)


class KernelPairMetadata(Rule):
    """A kernel pair lacks its reference, its tolerances, its test, or a symbol that it declares.

    SMELL. `register_pair(...)` with no reference, no test id, or a tolerance missing for a dtype that it lists;
    a `KernelPair` whose source does not define the forward and backward symbols that it names.

    WHY. A kernel that nothing compares with its reference is right by hope; a missing symbol fails on the first
    machine with a GPU.

    FIX. Give the full record; declare a forward-only kernel `differentiable=False`.

    TRACE. Kernel rule KN-04.
    """

    id = "KN-04"
    name = "kernel-pair-metadata"
    group = "kernels"
    severity = "error"
    words = frozenset({"register_pair", "KernelPair"})
    why = "a kernel that nothing compares with its reference is right by hope"
    mend = "name reference, tolerance for each dtype, test, and both symbols"

    VALID = """
register_pair("delta", fwd=f, bwd=b, reference=r, dtypes=["fp32"], tol={"fp32": 1e-5}, test="test_delta_pair")
# ---
register_pair("decode", fwd=f, bwd=None, differentiable=False, reference=r, tol={"fp32": 1e-5}, test="test_decode")
# ---
register_pair("delta", **record)
# ---
register_pair("d", fwd=f, bwd=b, reference=r, dtypes=dtypes, tol=TOLERANCES, test="test_d")
# ---
P = KernelPair(op="affine", source=here("affine.cu"), forward="affine_forward", backward="affine_backward")
"""
    INVALID = """
register_pair("delta", fwd=f, bwd=b, reference=None)  # <-
# ---
register_pair("delta", fwd=f, bwd=b, reference=r, dtypes=["fp32", "bf16"], tol={"fp32": 1e-5})  # <-
# ---
register_pair("delta", fwd=f, bwd=None, reference=r, tol={"fp32": 1e-5}, test="test_d")  # <-
# ---
api.register_pair("delta", fwd=f, bwd=b, reference=r, tol={"fp32": 1e-5})  # <-
# ---
P = KernelPair(op="affine", source=here("affine.cu"), forward="affine_forward")  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for node in file.index.word("register_pair", "KernelPair"):
            call = parent(node)
            if not (isinstance(call, ast.Call) and call.func is node) or any(k.arg is None for k in call.keywords):
                continue
            lacks = _lacks(call) if last_word(call) == "register_pair" else _lacks_symbols(call)
            if lacks:
                yield Hit(call, f"this kernel pair lacks {', '.join(lacks)}")

    def judge(self, project: "Project") -> Iterator["tuple[File, Hit] | Remark"]:
        """Declared symbols against the source beside the file."""
        for path in project.files:
            if not path.endswith(".py") or not _mentions_pair(path):
                continue
            file = project.load(path)
            for node in file.index.word("KernelPair") if file is not None else ():
                call = parent(node)
                if isinstance(call, ast.Call) and call.func is node and file is not None:
                    yield from self._symbols(file, call)

    def _symbols(self, file: File, call: ast.Call) -> Iterator[tuple[File, Hit]]:
        given = arguments(call)
        source = given.get("source")
        names = [text for text in strings_in(source) if text.endswith(".cu")] if source is not None else []
        if len(names) != 1:
            return
        whole = os.path.join(os.path.dirname(file.path), names[0])
        if not os.path.isfile(whole):
            yield file, Hit(call, f"the source {names[0]} is not beside this file")
            return
        defined = symbols(whole)
        for side in ("forward", "backward"):
            symbol = constant(given.get(side))
            if isinstance(symbol, str) and symbol not in defined:
                yield file, Hit(call, f"{names[0]} defines no kernel `{symbol}`, which is declared as {side}")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call()


def _lacks(call: ast.Call) -> list[str]:
    given = arguments(call)
    lacks = []
    if constant(given.get("reference")) is None and not _is_something(given.get("reference")):
        lacks.append("a reference")
    forward_only = constant(given.get("differentiable")) is False
    if not _is_something(given.get("bwd")) and not forward_only:
        lacks.append("a backward")
    if "test" not in given:
        lacks.append("a test")
    dtypes, tolerances = given.get("dtypes"), given.get("tol")
    if tolerances is None:
        lacks.append("tolerances")
    elif isinstance(dtypes, (ast.List, ast.Tuple)) and isinstance(tolerances, ast.Dict):
        known = {constant(key) for key in tolerances.keys}
        lacks += [f"a tolerance for {constant(d)}" for d in dtypes.elts if constant(d) not in known]
    return lacks


def _lacks_symbols(call: ast.Call) -> list[str]:
    given = arguments(call)
    return (
        [f"its {side} symbol" for side in ("forward", "backward") if not _is_something(given.get(side))]
        if given
        else []
    )


def _is_something(node: ast.AST | None) -> bool:
    return node is not None and not (isinstance(node, ast.Constant) and node.value is None)


def symbols(path: str, depth: int = 0) -> set[str]:
    """Kernels that a source defines, through the headers beside it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            text = stream.read()
    except OSError:
        return set()
    found = set(_GLOBAL.findall(text))
    for name in _INCLUDE.findall(text) if depth < 4 else ():
        found |= symbols(os.path.join(os.path.dirname(path), name), depth + 1)
    return found


def _mentions_pair(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            return b"KernelPair(" in stream.read()
    except OSError:
        return False
