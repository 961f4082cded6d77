"""Follows a learned value from where it is read to where it multiplies, and knows what bounds it on the way."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from hecate_lint.facts import File, arguments
from hecate_lint.index import Function, class_of, descendants, function_of, own_nodes, parent, walk
from hecate_lint.names import parameters


class Range(Enum):
    """What is known of a value that no full bound has met."""

    RAW = "raw"
    POSITIVE = "positive"  # softplus, exp, clamp(min=0): may exceed one
    NEGATIVE = "negative"  # -exp(A_log): exp of it is bounded
    SIGNED = "signed"  # tanh: inside (-1, 1), but can be negative


@dataclass(frozen=True)
class Product:
    """A place where the value multiplies something: how, and what."""

    node: ast.AST
    other: ast.expr | None  # the operand it multiplies; None for a power
    range: Range
    form: str  # times, complement, power, lerp


_PASS = frozenset(
    "view reshape float double half bfloat16 to unsqueeze squeeze expand expand_as type_as detach contiguous clone"
    " cuda cpu flatten repeat repeat_interleave transpose permute abs mean type item t index_select gather"
    " select narrow".split()
)
_BOUND = frozenset("sigmoid sigmoid_ softmax hardsigmoid logsigmoid log_softmax erf sparsemax hard_sigmoid".split())
_CLAMP = frozenset("clamp clamp_ clip clip_ hardtanh clamp_min clamp_max clamp_min_ clamp_max_ minimum maximum".split())
_DEPTH = 8


def products(
    file: File, node: ast.AST, depth: int = 0, kind: Range = Range.RAW, form: str = "times"
) -> Iterator[Product]:
    """Every multiplicative use that the value of `node` reaches without passing a bound."""
    above = parent(node)
    if depth > _DEPTH or above is None:
        return
    follow = _FOLLOW.get(above.__class__)
    if follow is not None:
        yield from follow(file, node, above, depth, kind, form)


def _keyword(file: File, node: ast.AST, above: ast.keyword, depth: int, kind: Range, form: str) -> Iterator[Product]:
    call = parent(above)
    if isinstance(call, ast.Call):
        yield from _call(file, above, call, depth, kind, form)


def _unary(file: File, node: ast.AST, above: ast.UnaryOp, depth: int, kind: Range, form: str) -> Iterator[Product]:
    if isinstance(above.op, ast.USub):
        flipped = {Range.POSITIVE: Range.NEGATIVE, Range.NEGATIVE: Range.POSITIVE}.get(kind, kind)
        yield from products(file, above, depth + 1, flipped, form)


def _through(file: File, node: ast.AST, above: ast.expr, depth: int, kind: Range, form: str) -> Iterator[Product]:
    if not (isinstance(above, ast.Subscript) and above.slice is node):
        yield from products(file, above, depth + 1, kind, form)


def _augmented(
    file: File, node: ast.AST, above: ast.AugAssign, depth: int, kind: Range, form: str
) -> Iterator[Product]:
    if above.value is node and isinstance(above.op, ast.Mult):
        yield Product(above, above.target, kind, form)


def _iterated(
    file: File, node: ast.AST, above: ast.For | ast.comprehension, depth: int, kind: Range, form: str
) -> Iterator[Product]:
    if above.iter is node:
        yield from _named(file, above.target, depth, kind, form)


def _method(
    file: File, node: ast.AST, attribute: ast.Attribute, depth: int, kind: Range, form: str
) -> Iterator[Product]:
    call = parent(attribute)
    word = attribute.attr
    if not (isinstance(call, ast.Call) and call.func is attribute):
        if word in ("data", "T", "mT"):
            yield from products(file, attribute, depth + 1, kind, form)
        return
    if word in _PASS:
        yield from products(file, call, depth + 1, kind, form)
    elif word in ("mul", "mul_", "multiply") and call.args:
        yield Product(call, call.args[0], kind, form)
    elif word == "pow" and call.args and not isinstance(call.args[0], ast.Constant):
        yield Product(call, None, kind, "power")
    else:
        yield from _function(file, word, call, depth, kind, form, method=True)


def _call(file: File, node: ast.AST, call: ast.Call, depth: int, kind: Range, form: str) -> Iterator[Product]:
    if node is call.func:
        return
    func = call.func
    word = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    first = bool(call.args) and call.args[0] is node
    target = file.callee(call)
    if target is not None and not isinstance(node, ast.Starred):
        yield from _inside(file, node, call, target, depth, kind, form)
    elif word in ("mul", "multiply") and len(call.args) == 2 and isinstance(func, ast.Attribute):
        yield Product(call, call.args[1] if first else call.args[0], kind, form)
    elif word in ("mul", "mul_") and isinstance(func, ast.Attribute) and first:
        yield Product(call, func.value, kind, form)
    elif word in ("lerp", "lerp_"):
        weight = call.args[-1] if call.args else None
        if node is weight or (isinstance(node, ast.keyword) and node.arg == "weight"):
            start = call.args[0] if len(call.args) >= 3 else func.value if isinstance(func, ast.Attribute) else None
            yield Product(call, start, kind, "lerp")
    elif word == "pow" and first and len(call.args) == 2 and not isinstance(call.args[1], ast.Constant):
        yield Product(call, None, kind, "power")
    elif word == "addcmul" and len(call.args) >= 3 and not first:
        yield Product(call, call.args[2] if call.args[1] is node else call.args[1], kind, form)
    elif word in ("zip", "enumerate"):
        yield from _zipped(file, node, call, depth, kind, form)
    elif first:
        yield from _function(file, word, call, depth, kind, form, method=False)


def _function(
    file: File, word: str, call: ast.Call, depth: int, kind: Range, form: str, *, method: bool
) -> Iterator[Product]:
    """What a call makes of the value: a bound ends the trace, a one-sided bound is remembered."""
    after: Range | None = None
    if word == "tanh":
        after = Range.SIGNED
    elif word in ("softplus", "relu", "exp2"):
        after = Range.POSITIVE
    elif word == "exp":
        after = None if kind is Range.NEGATIVE else Range.POSITIVE
    elif word in ("neg", "negative"):
        after = {Range.POSITIVE: Range.NEGATIVE, Range.NEGATIVE: Range.POSITIVE}.get(kind, kind)
    elif word in _CLAMP:
        after = _clamped(word, call, kind, method)
    elif word in _PASS or word in ("as_tensor", "Tensor", "stack", "cat"):
        after = kind
    if after is not None and word not in _BOUND:
        yield from products(file, call, depth + 1, after, form)


def _clamped(word: str, call: ast.Call, kind: Range, method: bool) -> Range | None:
    named = arguments(call)
    given = len(call.args) + (1 if method else 0)
    if word in ("minimum", "maximum"):
        inner = call.args[0] if call.args else None
        nested = any(isinstance(n, ast.Call) and _last(n.func) in ("minimum", "maximum") for n in walk(inner or call))
        return None if nested or isinstance(parent(call), ast.Call) else Range.POSITIVE
    if word in ("clamp_max", "clamp_max_", "clamp_min", "clamp_min_"):
        return None if kind is Range.POSITIVE and "max" in word else Range.POSITIVE
    low, high = given >= 2 or "min" in named, given >= 3 or "max" in named
    if word == "hardtanh" or (low and high):
        return None
    return None if kind is Range.POSITIVE and high else Range.POSITIVE


def _arithmetic(file: File, node: ast.AST, above: ast.BinOp, depth: int, kind: Range, form: str) -> Iterator[Product]:
    other = above.right if above.left is node else above.left
    plain = isinstance(other, ast.Constant)
    if isinstance(above.op, ast.Mult):
        if plain:
            yield from products(file, above, depth + 1, kind, form)
        else:
            yield Product(above, other, kind, form)
            if kind in (Range.NEGATIVE, Range.POSITIVE):
                yield from products(file, above, depth + 1, kind, form)
    elif isinstance(above.op, ast.Sub) and above.right is node and plain and kind is not Range.POSITIVE:
        yield from products(file, above, depth + 1, kind, "complement")
    elif isinstance(above.op, ast.Pow) and above.left is node and not plain:
        yield Product(above, None, kind, "power")
    elif isinstance(above.op, (ast.Add, ast.Sub)) and plain and above.left is node and kind is Range.RAW:
        yield from products(file, above, depth + 1, kind, form)


def _assigned(
    file: File, node: ast.AST, above: ast.Assign | ast.AnnAssign, depth: int, kind: Range, form: str
) -> Iterator[Product]:
    targets = above.targets if isinstance(above, ast.Assign) else [above.target]
    for target in targets:
        if isinstance(target, ast.Name):
            yield from _named(file, target, depth, kind, form)


def _unpacked(file: File, node: ast.AST, above: ast.Tuple, depth: int, kind: Range, form: str) -> Iterator[Product]:
    assign = parent(above)
    if isinstance(assign, ast.Assign) and assign.value is above:
        for target in assign.targets:
            if isinstance(target, ast.Tuple) and len(target.elts) == len(above.elts):
                place = next(n for n, item in enumerate(above.elts) if item is node)
                yield from _named(file, target.elts[place], depth, kind, form)


def _zipped(file: File, node: ast.AST, call: ast.Call, depth: int, kind: Range, form: str) -> Iterator[Product]:
    above = parent(call)
    if isinstance(above, (ast.For, ast.comprehension)) and isinstance(above.target, ast.Tuple):
        place = next((n for n, arg in enumerate(call.args) if arg is node), 0)
        place += 1 if _last(call.func) == "enumerate" else 0
        if place < len(above.target.elts):
            yield from _named(file, above.target.elts[place], depth, kind, form)


def _named(file: File, target: ast.AST, depth: int, kind: Range, form: str) -> Iterator[Product]:
    """Uses of a local name, unless something in the function bounds the name itself."""
    function = function_of(target)
    if not isinstance(target, ast.Name) or function is None:
        return
    nodes = [n for n in descendants(function) if isinstance(n, ast.Name) and n.id == target.id]
    loads = [n for n in nodes if isinstance(n.ctx, ast.Load)]
    for load in loads:
        above = parent(load)
        inner = above.attr if isinstance(above, ast.Attribute) else ""
        if inner in ("clamp_", "clip_", "sigmoid_"):
            return
        if _rebinds(load, target.id):
            return
    for load in loads:
        if (load.lineno, load.col_offset) > (target.lineno, target.col_offset) or load.lineno > target.lineno:
            yield from products(file, load, depth + 1, kind, form)


def _rebinds(load: ast.Name, name: str) -> bool:
    """Whether a read of a name feeds a bounding call that is assigned to the same name."""
    bounded = False
    at: ast.AST | None = load
    while at is not None and not isinstance(at, ast.stmt):
        if isinstance(at, ast.Call) and _last(at.func) in _BOUND | _CLAMP | {"exp", "softplus", "tanh"}:
            bounded = True
        at = parent(at)
    targets = at.targets if isinstance(at, ast.Assign) else []
    return bounded and any(isinstance(t, ast.Name) and t.id == name for t in targets)


def _inside(
    file: File, node: ast.AST, call: ast.Call, target: Function, depth: int, kind: Range, form: str
) -> Iterator[Product]:
    """The uses that a helper of this file makes of its argument."""
    args = [*target.args.posonlyargs, *target.args.args]
    if isinstance(parent(target), ast.ClassDef) and args:
        args = args[1:]
    name = ""
    if isinstance(node, ast.keyword):
        name = node.arg or ""
    else:
        place = next((n for n, arg in enumerate(call.args) if arg is node), -1)
        name = args[place].arg if 0 <= place < len(args) else ""
    if not any(arg.arg == name for arg in parameters(target.args)):
        return
    loads = [n for n in own_nodes(target) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)]
    if any(_rebinds(load, name) for load in loads):
        return
    for load in loads:
        above = parent(load)
        if not isinstance(above, ast.Return):
            yield from products(file, load, depth + 4, kind, form)
        else:
            yield from products(file, call, depth + 4, kind, form)


def _returned(file: File, node: ast.AST, above: ast.Return, depth: int, kind: Range, form: str) -> Iterator[Product]:
    """Through a property or a method without arguments that hands the value on."""
    function, cls = function_of(above), class_of(above)
    if function is None or cls is None or parent(function) is not cls or depth > 4:
        return
    entry = file.attributes(cls).get(function.name)
    is_property = any(_last(d) in ("property", "cached_property") for d in function.decorator_list)
    for read in entry.reads if entry is not None else []:
        call = parent(read)
        if is_property:
            yield from products(file, read, depth + 2, kind, form)
        elif isinstance(call, ast.Call) and call.func is read and not call.args and not call.keywords:
            yield from products(file, call, depth + 2, kind, form)


def _last(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


_FOLLOW: dict[type, Callable[..., Iterator[Product]]] = {
    ast.Attribute: _method,
    ast.Call: _call,
    ast.keyword: _keyword,
    ast.UnaryOp: _unary,
    ast.BinOp: _arithmetic,
    ast.Subscript: _through,
    ast.IfExp: _through,
    ast.BoolOp: _through,
    ast.NamedExpr: _through,
    ast.AugAssign: _augmented,
    ast.Assign: _assigned,
    ast.AnnAssign: _assigned,
    ast.Tuple: _unpacked,
    ast.Return: _returned,
    ast.For: _iterated,
    ast.comprehension: _iterated,
}
