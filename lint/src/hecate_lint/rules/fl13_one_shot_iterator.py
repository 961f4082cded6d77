"""FL-13: an iterator that is empty the second time."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import LOOPS, ancestors, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, loop_of, scope_nodes

_MAKERS = frozenset({"builtins.map", "builtins.filter", "builtins.zip"})
_TAKES_ALL = frozenset(
    "list tuple set sorted sum max min len dict any all join extend update stack cat iter enumerate zip".split()
)


class OneShotIterator(Rule):
    """A generator, map, filter or zip is consumed twice.

    SMELL. A generator expression or `map(...)` bound to a name that is iterated, unpacked or listed more than
    once, or once in a loop that does not make it.

    WHY. The second pass sees nothing, and nothing says so: sums are zero, argument lists are empty.

    FIX. `tuple(...)` around it; `--unsafe-fixes` writes it.

    TRACE. Fail-loud rule FL-13.
    """

    id = "FL-13"
    name = "one-shot-iterator"
    group = "fail-loud"
    severity = "error"
    fix_kind = "unsafe"
    why = "the second pass over it sees nothing, and nothing says so"
    mend = "make it a tuple"

    VALID = """
args2 = tuple(a.contiguous() for a in args)
out = fn(*args2)
# ---
total = sum(x * x for x in xs)
# ---
m = map(int, xs)
n = len(list(m))
# ---
def f(xs, flag):
    pairs = (x for x in xs)
    if flag:
        return list(pairs)
    return tuple(pairs)
# ---
for xs in rows:
    m = (x + 1 for x in xs)
    print(list(m))
# ---
pairs = zip(a, b)
rows = (x + 1 for x in xs)
for (p, q), row in zip(pairs, rows, strict=True):
    print(p, q, row)
# ---
g = (x for x in xs)
first = next(g)
rest = list(g)
"""
    INVALID = """
args2 = (a.contiguous() for a in args)  # <-
first = next(iter(args2))
out = fn(*args2)
# ---
m = map(int, xs)  # <-
n = len(list(m))
total = sum(m)
# ---
pairs = zip(a, b)  # <-
for epoch in range(3):
    for x, y in pairs:
        step(x, y)
# ---
def f(xs):
    kept = filter(None, xs)  # <-
    low = min(kept)
    high = max(kept)
    return low, high
# ---
def g(fn, args, n):
    moved = (a.cuda() for a in args)  # <-
    for _ in range(n):
        fn(*moved)
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for assign in file.index.all(ast.Assign):
            value = assign.value
            made = isinstance(value, ast.GeneratorExp) or (
                isinstance(value, ast.Call) and file.names.callee(value) in _MAKERS
            )
            if not made or len(assign.targets) != 1 or not isinstance(assign.targets[0], ast.Name):
                continue
            name = assign.targets[0].id
            nodes = [n for n in scope_nodes(assign) if isinstance(n, ast.Name) and n.id == name]
            if sum(not isinstance(n.ctx, ast.Load) for n in nodes) > 1:
                continue
            uses = [n for n in nodes if isinstance(n.ctx, ast.Load) and _consumes(n)]
            looped = [n for n in uses if _loops_between(n, assign)]
            if looped or len(_independent(uses)) > 1:
                yield Hit(value, f"`{name}` is consumed more than once")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.GeneratorExp() | m.Call()

    def fix(self, node: Any, hit: Hit) -> Any:
        import libcst as cst

        bare = node.with_changes(lpar=(), rpar=())
        return cst.Call(cst.Name("tuple"), [cst.Arg(bare)])


def _consumes(name: ast.Name) -> bool:
    above = parent(name)
    if isinstance(above, (ast.For, ast.AsyncFor, ast.comprehension)):
        return above.iter is name
    if isinstance(above, ast.Starred):
        return True
    return isinstance(above, ast.Call) and name in above.args and last_word(above) in _TAKES_ALL


def _loops_between(name: ast.Name, assign: ast.Assign) -> bool:
    """Whether a loop that does not hold the assignment runs this use several times."""
    around = set(map(id, ancestors(assign)))
    loop = loop_of(name)
    while loop is not None:
        head = getattr(loop, "iter", None)  # evaluated once, before the first turn
        in_head = isinstance(loop, LOOPS) and head is not None and any(node is name for node in walk(head))
        if id(loop) not in around and not in_head:
            return not any(isinstance(n, (ast.Return, ast.Break)) for n in getattr(loop, "body", []))
        loop = loop_of(loop)
    return False


def _independent(uses: list[ast.Name]) -> list[ast.Name]:
    """Uses that can both happen: not in two branches of one if, not after a return."""
    kept: list[ast.Name] = []
    for use in uses:
        if not any(_exclusive(use, other) for other in kept):
            kept.append(use)
    return kept


def _exclusive(use: ast.Name, other: ast.Name) -> bool:
    mine = {id(a): a for a in ancestors(use)}
    for at in ancestors(other):
        if isinstance(at, (ast.If, ast.Try)):
            if id(at) not in mine:
                return isinstance(at, ast.If) and isinstance(
                    at.body[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break)
                )
            branches = [at.body, at.orelse, *(h.body for h in getattr(at, "handlers", []))]
            where = [n for n, b in enumerate(branches) if any(id(s) in mine or s is use for s in b)]
            there = [n for n, b in enumerate(branches) if any(s is o for s in b for o in [other, *ancestors(other)])]
            return where != there
    return False
