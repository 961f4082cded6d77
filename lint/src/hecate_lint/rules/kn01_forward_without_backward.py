"""KN-01: a forward that nothing can differentiate."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments, constant
from hecate_lint.index import FUNCTIONS, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import decorators, last_word, only_statement_is

_FUNCTION = "torch.autograd.Function"


class ForwardWithoutBackward(Rule):
    """A forward has no backward, or one that only raises.

    SMELL. A `torch.autograd.Function` with `forward` and without `backward` (or `vjp`, `jvp`); a backward whose
    body only raises or returns None; a kernel registered as `x_fwd` with no `x_bwd`; a `custom_op` without
    `register_autograd`; a backward that returns another number of gradients than forward has inputs.

    WHY. Learning stops at this op: at best with an error on the first backward, at worst with gradients that
    are silently zero.

    FIX. Write the backward, or declare that the op is not differentiable.

    TRACE. Kernel rule KN-01; the reference backward is checked against finite differences.
    """

    id = "KN-01"
    name = "forward-without-backward"
    group = "kernels"
    severity = "error"
    words = frozenset({"Function", "custom_op", "register_kernel", "register_pair", "backward", "forward"})
    why = "learning stops at this op: with an error at the first backward, or with gradients that are silently zero"
    mend = "write the backward, or declare the op not differentiable"

    VALID = """
class F3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x
    @staticmethod
    def backward(ctx, g): return g
# ---
class MSE(LossFunction):
    def compute(self, a, b): return (a - b) ** 2
# ---
class F4(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale): return x * scale
    @staticmethod
    def backward(ctx, g):
        if not ctx.ready:
            raise RuntimeError("twice")
        return g, None
# ---
class Base(torch.autograd.Function):
    @staticmethod
    def backward(ctx, g): return g
class Child(Base):
    @staticmethod
    def forward(ctx, x): return x
# ---
@torch.library.custom_op("a::f", mutates_args=())
def f(x: torch.Tensor) -> torch.Tensor:
    return x.clone()
f.register_autograd(backward)
# ---
register_kernel("delta_fwd", delta)
register_kernel("delta_bwd", delta_backward)
"""
    INVALID = """
class F1(torch.autograd.Function):  # <-
    @staticmethod
    def forward(ctx, x): return x
# ---
class F2(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x
    @staticmethod
    def backward(ctx, g):  # <-
        raise NotImplementedError
# ---
from torch.autograd import Function as Fn
class Base(Fn):
    pass
class F5(Base):  # <-
    @staticmethod
    def forward(ctx, x): return x
# ---
class F6(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b): return x @ w + b
    @staticmethod
    def backward(ctx, g):
        return g, None  # <-
# ---
from torch.library import custom_op
@custom_op("a::f", mutates_args=())
def f(x: torch.Tensor) -> torch.Tensor:  # <-
    return x.clone()
# ---
register_kernel("titans_fwd", titans)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for cls in file.index.all(ast.ClassDef):
            if file.is_subclass(cls, _FUNCTION):
                yield from self._function(file, cls)
        for function in file.index.functions:
            if any(file.names.resolve(_callee(d)) == "torch.library.custom_op" for d in function.decorator_list):
                if not self._has_autograd(file, function.name):
                    yield Hit(function, f"custom op `{function.name}` has no register_autograd", "likely")
        yield from self._registered(file)

    def _function(self, file: File, cls: ast.ClassDef) -> Iterator[Hit]:
        methods = file.methods(cls)
        if "forward" not in methods:
            return
        own = {item.name for item in cls.body if isinstance(item, FUNCTIONS)}
        backward = methods.get("backward") or methods.get("vjp")
        if backward is None:
            assigned = {last_word(t) for item in cls.body if isinstance(item, ast.Assign) for t in item.targets}
            if "jvp" not in methods and not assigned & {"backward", "vjp"} and "forward" in own:
                yield Hit(cls, f"`{cls.name}` has a forward and no backward")
        elif backward.name in own:
            if only_statement_is(backward.body, ast.Raise, ast.Pass) or _returns_only_none(backward):
                if not _says_not_differentiable(cls):
                    yield Hit(backward, f"the backward of `{cls.name}` computes nothing")
            elif "forward" in own:
                yield from self._counted(methods["forward"], backward)

    def _counted(self, forward: Any, backward: Any) -> Iterator[Hit]:
        args = forward.args
        setup = "ctx" in {a.arg for a in args.args[:1]}
        if args.vararg is not None or args.kwonlyargs or not setup or args.defaults:
            return
        wanted = len(args.posonlyargs) + len(args.args) - 1
        returns = [n for n in walk(backward) if isinstance(n, ast.Return) and n.value is not None]
        for node in returns:
            if isinstance(node.value, ast.Tuple) and not any(isinstance(e, ast.Starred) for e in node.value.elts):
                given = len(node.value.elts)
                extra = node.value.elts[wanted:]
                if given < wanted or any(constant(e) is not None or not isinstance(e, ast.Constant) for e in extra):
                    yield Hit(node, f"backward returns {given} gradients for {wanted} inputs of forward")

    def _registered(self, file: File) -> Iterator[Hit]:
        names: dict[str, ast.Call] = {}
        for node in file.index.word("register_kernel", "register_pair"):
            call = parent(node)
            if isinstance(call, ast.Call) and call.func is node and call.args:
                name = constant(call.args[0])
                if isinstance(name, str) and constant(arguments(call).get("differentiable")) is not False:
                    names[name] = call
        for name, call in names.items():
            if name.endswith("_fwd") and f"{name[:-4]}_bwd" not in names:
                yield Hit(call, f'kernel "{name}" is registered without "{name[:-4]}_bwd"')

    def _has_autograd(self, file: File, name: str) -> bool:
        for node in file.index.word("register_autograd"):
            call = parent(node)
            if isinstance(node, ast.Attribute) and last_word(node.value) == name:
                return True
            if isinstance(call, ast.Call) and any(name in ast.unparse(a) for a in call.args):
                return True
            if isinstance(call, ast.Call) and any(isinstance(a, ast.Constant) for a in call.args[:1]):
                return True
        return False

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.ClassDef() | m.FunctionDef() | m.Return() | m.Call()


def _callee(node: ast.AST) -> ast.AST:
    return node.func if isinstance(node, ast.Call) else node


def _returns_only_none(function: Any) -> bool:
    real = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    if len(real) != 1 or not isinstance(real[0], ast.Return):
        return False
    value = real[0].value
    values = value.elts if isinstance(value, ast.Tuple) else [value]
    return all(v is None or (isinstance(v, ast.Constant) and v.value is None) for v in values)


def _says_not_differentiable(cls: ast.ClassDef) -> bool:
    marks = {last_word(n) for n in walk(cls) if isinstance(n, (ast.Name, ast.Attribute))}
    return bool({"mark_non_differentiable", "once_differentiable"} & (marks | set(decorators(cls))))
