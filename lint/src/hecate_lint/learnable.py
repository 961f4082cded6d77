"""Recognises expressions that make a learnable parameter, a buffer or another stored tensor."""

import ast

from hecate_lint.facts import File, arguments, constant
from hecate_lint.index import own_nodes, walk

PARAMETER = ("torch.nn.Parameter", "torch.nn.UninitializedParameter")
CONTAINERS = ("torch.nn.ParameterList", "torch.nn.ParameterDict")
_FRESH = frozenset(
    "zeros ones empty full rand randn zeros_like ones_like empty_like full_like rand_like randn_like tensor arange"
    " linspace eye as_tensor tril triu".split()
)


def parameter_in(file: File, value: ast.AST | None, depth: int = 0) -> ast.AST | None:
    """The call that makes a learnable parameter in an assigned value; None when there is none."""
    if isinstance(value, ast.IfExp):
        return parameter_in(file, value.body, depth) or parameter_in(file, value.orelse, depth)
    if isinstance(value, ast.BoolOp):
        return next((found for item in value.values if (found := parameter_in(file, item, depth))), None)
    if isinstance(value, ast.NamedExpr):
        return parameter_in(file, value.value, depth)
    if not isinstance(value, ast.Call):
        return None
    called = file.names.callee(value)
    if called in PARAMETER:
        return None if constant(arguments(value).get("requires_grad")) is False or _second_false(value) else value
    if called in CONTAINERS:
        inner = (n for n in walk(value) if isinstance(n, ast.Call) and n is not value)
        return value if any(parameter_in(file, call, depth) is not None for call in inner) else None
    if depth == 0:
        target = file.callee(value)
        if target is not None:
            for node in own_nodes(target):
                if isinstance(node, ast.Return) and parameter_in(file, node.value, 1) is not None:
                    return value
    return None


def makes_tensor(file: File, value: ast.AST | None) -> bool:
    """Whether an assigned value is evidently a tensor of its own (a parameter, `torch.zeros`, ...)."""
    if parameter_in(file, value) is not None:
        return True
    called = file.names.callee(value) if isinstance(value, ast.Call) else None
    if called is None:
        return False
    return called in PARAMETER or (called.startswith("torch.") and called.rsplit(".", 1)[-1] in _FRESH)


def _second_false(call: ast.Call) -> bool:
    return len(call.args) > 1 and constant(call.args[1]) is False
