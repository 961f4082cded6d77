"""Where gradients are taken, and where they are switched off: in a function, by its callers, by a trainer."""

import ast

from hecate_lint.facts import File, arguments, locals_of, split_words
from hecate_lint.index import FUNCTIONS, Function, ancestors, class_of, function_of, own_nodes, parent, walk
from hecate_lint.names import dotted_text, parameters

_OFF = ("torch.no_grad", "torch.inference_mode", "torch.set_grad_enabled", "torch.autograd.inference_mode")
_OFF_WORDS = frozenset({"no_grad", "inference_mode", "set_grad_enabled", "_set_grad_enabled", "eval_context"})
_LIGHTNING = frozenset({"validation_step", "test_step", "predict_step", "on_validation_epoch_end"})


def is_gradient(call: ast.Call) -> bool:
    """Whether a call takes a gradient: `backward`, `manual_backward`, `autograd.grad`."""
    func = call.func
    word = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    return word in ("backward", "manual_backward") or dotted_text(func).endswith(("autograd.grad", "autograd.backward"))


def differentiates(node: ast.AST) -> bool:
    """Whether anything below a node takes a gradient."""
    return any(isinstance(n, ast.Call) and is_gradient(n) for n in walk(node))


def differentiated(node: ast.AST) -> str:
    """The name whose gradient a call takes: `loss.backward()`, `accelerator.backward(loss)`."""
    if not (isinstance(node, ast.Call) and is_gradient(node) and isinstance(node.func, ast.Attribute)):
        return ""
    if node.func.attr in ("backward", "manual_backward"):
        held: ast.AST = node.args[0] if node.args and not isinstance(node.func.value, ast.Call) else node.func.value
        if isinstance(held, ast.Call) and held.args:
            held = held.args[0]  # scaler.scale(loss).backward()
        return held.id if isinstance(held, ast.Name) else ""
    return ""


def switched_off(file: File, function: ast.AST) -> bool:
    """Whether a function has a gradient switch anywhere: a decorator, a `with`, a call."""
    for node in walk(function):
        if isinstance(node, (ast.Name, ast.Attribute)):
            word = node.attr if isinstance(node, ast.Attribute) else node.id
            if word in _OFF_WORDS or "no_grad" in word or "inference_mode" in word or file.names.resolve(node) in _OFF:
                return True
        elif isinstance(node, ast.withitem):  # `with eval_mode(model):`, a stranger's own switch
            called = dotted_text(node.context_expr.func) if isinstance(node.context_expr, ast.Call) else ""
            if {"eval", "evaluating", "evaluation", "inference"} & set(split_words(called.rsplit(".", 1)[-1])):
                return True
    return False


def callers_off(file: File, function: Function) -> bool:
    """Whether the function is called in this file, and every caller switches gradients off."""
    callers = []
    for node in file.index.word(function.name):
        call = parent(node)
        if isinstance(call, ast.Call) and call.func is node:
            callers.append(call)
    outer = [function_of(call) for call in callers]
    known = [caller for caller in outer if caller is not None and caller is not function]
    return bool(known) and all(is_hook(caller) or switched_off(file, caller) for caller in known)


def is_hook(function: Function) -> bool:
    """Whether a trainer calls this with gradients off: its name, or `batch_idx` among its parameters."""
    return function.name in _LIGHTNING or any(arg.arg == "batch_idx" for arg in parameters(function.args))


def is_entry(file: File, function: Function) -> bool:
    """Whether people call this: no part of a forward path, and if private, somebody here does call it."""
    called = [call for node in file.index.word(function.name) if isinstance(call := parent(node), ast.Call)]
    callers = [outer for call in called if call.func is not None and (outer := function_of(call)) is not None]
    if any(caller.name in ("forward", "_forward", "__call__") for caller in callers):
        return False
    return not function.name.startswith("_") or bool(callers)


def under_no_grad(file: File, node: ast.AST) -> bool:
    """Whether a node stands in a `with` or a decorated function that switches gradients off."""
    for at in ancestors(node):
        if isinstance(at, (ast.With, ast.AsyncWith)):
            if any(switched_off(file, item.context_expr) for item in at.items):
                return True
        if isinstance(at, FUNCTIONS):
            return any(switched_off(file, decorator) for decorator in at.decorator_list)
    return False


def is_forward_path(file: File, function: Function) -> bool:
    """Methods of modules named sample, predict or generate may be part of a forward pass."""
    cls = class_of(function)
    words = set(split_words(function.name))
    soft = bool(words & {"sample", "predict", "generate", "infer", "probe", "inference"}) and not words & {
        "eval",
        "evaluate",
    }
    if cls is None or not soft:
        return False
    foreign = any(base not in ("builtins.object", "abc.ABC") and base not in file.classes for base in file.bases(cls))
    return foreign or "loss" in words  # a base of another file may well be a module


def _bare(value: ast.expr) -> ast.expr:
    """The value without its sign: `-loss` is the graph of `loss`."""
    return value.operand if isinstance(value, ast.UnaryOp) else value


def yields_graph(function: Function, call: ast.Call) -> bool:
    """Whether the differentiated value leaves the function, so that a caller may differentiate again."""
    name = differentiated(call)
    given = {arg.arg for arg in parameters(function.args)}
    value = locals_of(function).value(name)
    if name in given or (value is not None and any(isinstance(n, ast.Name) and n.id in given for n in [_bare(value)])):
        return True  # the graph is the caller's, who may go on with it
    for node in own_nodes(function):
        if isinstance(node, ast.Return) and node.value is not None:
            if any(isinstance(n, ast.Name) and n.id == name for n in walk(node.value)):
                return True
    return bool(arguments(call).get("create_graph")) or not name


def passes_on(function: Function, call: ast.Call) -> bool:
    """Whether a call hands on the function's own `*args` or `**kwargs`, or a default that is no model.

    A wrapper that does so leaves the choice to its caller.
    """
    inner = function_of(call) or function
    stars = {arg.arg for arg in (inner.args.vararg, inner.args.kwarg) if arg is not None}
    given = [arg.value for arg in call.args if isinstance(arg, ast.Starred)]
    given += [keyword.value for keyword in call.keywords if keyword.arg is None]
    if any(isinstance(value, ast.Name) and value.id in stars for value in given):
        return True
    args = [*function.args.posonlyargs, *function.args.args]
    late = args[len(args) - len(function.args.defaults) :]
    defaults = dict(zip((arg.arg for arg in late), function.args.defaults, strict=True))
    default = defaults.get(getattr(call.func, "id", ""))
    return default is not None and not isinstance(default, ast.Constant)
