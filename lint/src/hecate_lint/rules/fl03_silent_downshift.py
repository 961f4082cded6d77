"""FL-03: a slower or weaker path, chosen without a word."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import parent, walk
from hecate_lint.model import Hit
from hecate_lint.pattern import Pattern
from hecate_lint.rule import Rule
from hecate_lint.syntax import block_of, last_word, words_in

_HAS = Pattern(
    r"^_?(HAS|HAVE|USE|IS)_[A-Z0-9_]+(AVAILABLE)?$|^_?is_\w+_available$|^_?has_(triton|cuda|flash\w*|apex|xformers|fused\w*|bf16)$"
)
_KERNEL = Pattern(
    r"kernel|attn|attention|fused|flash|triton|cuda|dtype|bf16|bfloat16|float16|fp8|device|compile|conv|norm|fast|scan",
    re.I,
)
_REPORTS = frozenset(
    "warn warning warn_once warning_once info debug error exception print log record print_exc critical".split()
)


class SilentDownshift(Rule):
    """A fallback to a slower or weaker path neither raises, warns nor records.

    SMELL. `try: f = torch.compile(g)` / `except: f = g`; `kernel if HAS_TRITON else reference`; `hasattr(x,
    "capability")` with an `else` that means something else.

    WHY. The run is slower or less exact than its config says, and nobody can see it: numbers of two machines
    are compared that did not run the same code.

    FIX. Raise, or warn once and record the backend's name. Falling back is the user's choice to make.

    TRACE. Fail-loud rule FL-03.
    """

    id = "FL-03"
    name = "silent-downshift"
    group = "fail-loud"
    severity = "warn"
    why = "the run is not the one its config describes, and nothing in its log says so"
    mend = "raise, or warn once and record which path was taken"

    VALID = """
def pick(name):
    if name not in BACKENDS:
        raise ValueError(f"{name}: expected one of {sorted(BACKENDS)}")
    return BACKENDS[name]
# ---
if not HAS_TRITON:
    warnings.warn("triton missing: reference kernels in use")
    kernel = reference
# ---
try:
    attn = torch.compile(flex)
except RuntimeError:
    logger.warning("flex attention is not compiled")
    attn = flex
# ---
try:
    from typing import Self
except ImportError:
    from typing_extensions import Self
# ---
rows = fast_rows if small else slow_rows
# ---
def size(x):
    if hasattr(x, "shape"):
        return x.shape
    raise TypeError(x)
"""
    INVALID = """
try:
    attn = torch.compile(flex)
except Exception:
    attn = flex  # <-
# ---
def split(m):
    if hasattr(m, "param_sets"):
        return m.param_sets()
    return list(m.parameters()), []  # <-
# ---
kernel = fused_kernel if HAS_TRITON else reference_kernel  # <-
# ---
def attention(q, k, v):
    if HAS_FLASH:
        return flash_attn(q, k, v)
    else:
        return slow_attention(q, k, v)  # <-
# ---
try:
    fast_norm = load_kernel("norm")
except (OSError, RuntimeError):
    fast_norm = plain_norm  # <-
# ---
dtype = torch.bfloat16 if _HAS_BF16 else torch.float32  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        yield from self._tried(file)
        for choice in file.index.all(ast.IfExp):
            if _asks(choice.test) and _matters(choice) and not isinstance(choice.orelse, ast.Constant):
                severity = "error" if _KERNEL.search(ast.unparse(choice)) else None
                yield Hit(
                    choice,
                    f"`{ast.unparse(choice.orelse)}` stands in when `{ast.unparse(choice.test)}` is false",
                    "likely",
                    severity,
                )
        for branch in file.index.all(ast.If):
            yield from self._branched(branch)

    def _tried(self, file: File) -> Iterator[Hit]:
        """`try: name = fast` and a handler whose only act is `name = slow`."""
        for handler in file.index.all(ast.ExceptHandler):
            attempt = parent(handler)
            if (
                not isinstance(attempt, ast.Try)
                or len(handler.body) != 1
                or not isinstance(handler.body[0], ast.Assign)
            ):
                continue
            other = handler.body[0]
            if isinstance(other.value, ast.Constant) or _is_import(attempt):
                continue
            for stmt in attempt.body:
                if isinstance(stmt, ast.Assign) and ast.unparse(stmt.targets[0]) == ast.unparse(other.targets[0]):
                    if isinstance(stmt.value, ast.Call) and _KERNEL.search(ast.unparse(stmt)):
                        message = f"`{ast.unparse(other.value)}` stands in for `{ast.unparse(stmt.value)}`"
                        yield Hit(other, message, "likely", "error")

    def _branched(self, branch: ast.If) -> Iterator[Hit]:
        if _asks(branch.test) and isinstance(branch.body[-1], ast.Return) and len(branch.body) <= 2:
            block = block_of(branch)
            after = branch.orelse or block[block.index(branch) + 1 :]
            other = after[0] if after else None
            if (
                len(after) == 1
                and isinstance(other, ast.Return)
                and other.value is not None
                and not isinstance(other.value, ast.Constant)
            ):
                if (_matters(branch) or _is_capability(branch.test)) and not _reports(branch):
                    yield Hit(other, f"this stands in when `{ast.unparse(branch.test)}` is false", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Assign() | m.IfExp() | m.Return()


def _is_capability(test: ast.expr) -> bool:
    """`hasattr(x, "param_sets")` asks an object what it can do."""
    return (
        isinstance(test, ast.Call)
        and last_word(test) == "hasattr"
        and len(test.args) == 2
        and isinstance(test.args[0], ast.Name)
    )


def _asks(test: ast.expr) -> bool:
    if _is_capability(test):
        return True
    return bool(_HAS.search(last_word(test)))


def _matters(node: ast.AST) -> bool:
    return any(_KERNEL.search(word) for word in words_in(node))


def _reports(node: ast.AST) -> bool:
    return any(isinstance(n, ast.Call) and last_word(n) in _REPORTS for n in walk(node))


def _is_import(attempt: ast.Try) -> bool:
    return any(isinstance(stmt, (ast.Import, ast.ImportFrom)) for stmt in attempt.body)
