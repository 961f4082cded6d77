"""In-place operations, and whether the storage that they write may be held by somebody else."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hecate_lint.carried import is_state, root
from hecate_lint.facts import File, constant
from hecate_lint.index import LOOPS, Function, ancestors, class_of, function_of, own_nodes, parent, statement, walk
from hecate_lint.learnable import makes_tensor
from hecate_lint.names import parameters

METHODS = frozenset(
    "add_ sub_ mul_ div_ copy_ lerp_ addcmul_ addcdiv_ addmm_ addmv_ addr_ baddbmm_ addbmm_ clamp_ clamp_min_"
    " clamp_max_ clip_ zero_ fill_ index_add_ index_copy_ index_fill_ index_put_ scatter_ scatter_add_"
    " scatter_reduce_ masked_fill_ masked_scatter_ exp_ log_ sqrt_ rsqrt_ neg_ sigmoid_ tanh_ relu_ normal_"
    " uniform_ bernoulli_ set_ resize_ resize_as_ pow_ square_ abs_ round_ floor_ ceil_ sign_ reciprocal_"
    " softmax_ tril_ triu_ fill_diagonal_ true_divide_ subtract_ multiply_ divide_ remainder_ renorm_ where_"
    " put_ mul_add_ nan_to_num_".split()
)
_VIEWS = frozenset(
    "view reshape transpose permute squeeze unsqueeze detach expand narrow select chunk split flatten t swapaxes unbind"
    " diagonal view_as movedim requires_grad_ index_select unfold real imag".split()
)
_COPIES = frozenset({"index_select"})
_LISTS = (ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.GeneratorExp)
_COUNTS = frozenset("item numel nelement element_size tolist len int float size dim memory_allocated".split())
_ELEMENTS = frozenset("parameters named_parameters buffers named_buffers".split())


@dataclass(frozen=True)
class Write:
    """One in-place operation: the node to report, the tensor that it writes, and how."""

    node: ast.AST
    target: ast.expr
    how: str
    tensor: bool  # whether the operation itself proves that the target is a tensor


@dataclass(frozen=True)
class Shared:
    """Why a target's storage may be held elsewhere, and how sure that is."""

    what: str
    confidence: str
    kind: str  # parameter, buffer, attribute, element, state, argument


def writes(file: File) -> Iterator[Write]:
    """Every in-place operation of a file."""
    for node in file.index.word(*METHODS):
        call = parent(node)
        if isinstance(node, ast.Attribute) and isinstance(call, ast.Call) and call.func is node:
            yield from _method(file, node, call)
    for augmented in file.index.all(ast.AugAssign):
        if isinstance(augmented.target, ast.Subscript):
            slicing = _is_slicing(augmented.target)
            yield Write(augmented, augmented.target.value, "augmented item assignment", slicing)
        else:
            yield Write(augmented, augmented.target, "augmented assignment", False)
    for assign in file.index.all(ast.Assign):
        for target in assign.targets:
            if isinstance(target, ast.Subscript):
                yield Write(assign, target.value, "item assignment", _is_slicing(target))
            elif isinstance(target, ast.Attribute) and target.attr == "data":
                yield Write(assign, target, "assignment to .data", True)
    for keyword in file.index.all(ast.keyword):
        call = parent(keyword)
        if keyword.arg in ("out", "inplace") and isinstance(call, ast.Call):
            yield from _keyword(file, keyword, call)
    for call in file.index.all(ast.Call):
        yield from _call(call)


def _call(call: ast.Call) -> Iterator[Write]:
    func = call.func
    if isinstance(func, ast.Name):
        if func.id == "setattr" and len(call.args) == 3 and constant(call.args[1]) == "data":
            yield Write(call, call.args[0], 'setattr(..., "data", ...)', True)
    elif (
        isinstance(func, ast.Attribute) and func.attr.startswith("_foreach_") and func.attr.endswith("_") and call.args
    ):
        yield Write(call, call.args[0], func.attr, True)


def _method(file: File, node: ast.Attribute, call: ast.Call) -> Iterator[Write]:
    above = parent(call)
    outer = parent(above) if isinstance(above, ast.Attribute) and above.attr in METHODS else None
    if isinstance(outer, ast.Call) and outer.func is above:
        return  # w.mul_(a).add_(b): told once, at the whole chain
    if file.names.resolve(node.value) in ("torch.Tensor", "torch.nn.Parameter"):
        if call.args:
            yield Write(call, call.args[0], f"torch.Tensor.{node.attr}", True)
        return
    target: ast.expr = node.value
    while isinstance(target, ast.Call) and isinstance(target.func, ast.Attribute) and target.func.attr in METHODS:
        target = target.func.value
    yield Write(call, target, node.attr, True)


def _keyword(file: File, keyword: ast.keyword, call: ast.Call) -> Iterator[Write]:
    called = file.names.callee(call) or ""
    if keyword.arg == "out" and called.startswith("torch.") and constant(keyword.value) is None:
        yield Write(call, keyword.value, "out=", True)
    elif keyword.arg == "inplace" and constant(keyword.value) is True and call.args:
        if called.startswith("torch.nn.functional."):
            yield Write(call, call.args[0], f"{called.rsplit('.', 1)[-1]}(inplace=True)", True)


def _is_slicing(subscript: ast.Subscript) -> bool:
    """Whether an index can only be a tensor's: a tuple with a slice, an ellipsis or None in it."""
    index = subscript.slice
    if isinstance(index, ast.Tuple):
        return any(isinstance(item, ast.Slice) or constant(item) is Ellipsis for item in index.elts)
    return constant(index) is Ellipsis


def shared(file: File, write: Write) -> Shared | None:
    """Why the written storage may be somebody else's; None when it is fresh or unknown."""
    if not write.tensor and isinstance(write.node, ast.AugAssign) and _is_evidently_tensor(file, write.node):
        write = replace(write, tensor=True)
    return _shared(file, write.target, write, 0)


def _is_evidently_tensor(file: File, node: ast.AugAssign) -> bool:
    """Whether an augmented assignment to an argument named like state can only be one of tensors.

    By what is added, or by what else the function does with the name; a count of bytes and a list look different.
    """
    start, function = root(node.target), function_of(node)
    if not isinstance(start, ast.Name) or function is None or isinstance(node.value, _LISTS):
        return False
    named = start.id if not isinstance(node.target, ast.Attribute) else node.target.attr
    if start.id not in {arg.arg for arg in parameters(function.args)} or not (is_state(start.id) or is_state(named)):
        return False
    if any(_counts(part) for part in walk(node.value)):
        return False
    if _computes_tensor(file, node.value, function, node, 0):
        return True
    return isinstance(node.target, ast.Name) and any(_takes(file, item, start.id) for item in own_nodes(function))


def _counts(node: ast.AST) -> bool:
    func = node.func if isinstance(node, ast.Call) else None
    return (func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")) in _COUNTS


def _computes_tensor(file: File, value: ast.expr, function: Function, at: ast.AST, depth: int) -> bool:
    for part in walk(value):
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.MatMult):
            return True
        if isinstance(part, ast.Attribute) and part.attr in ("T", "mT"):
            return True
        if isinstance(part, ast.Call) and (file.names.callee(part) or "").startswith("torch."):
            return True
        if isinstance(part, ast.Name) and depth < 2:
            bound = _latest(function, part.id, at)
            if isinstance(bound, ast.expr) and bound is not value and not isinstance(bound, _LISTS):
                if not any(_counts(one) for one in walk(bound)):
                    if _computes_tensor(file, bound, function, bound, depth + 1):
                        return True
    return False


def _takes(file: File, node: ast.AST, name: str) -> bool:
    """Whether a node works on the name as on a tensor: a matrix product, an argument of a torch function."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return any(isinstance(one, ast.Name) and one.id == name for one in (node.left, node.right))
    if isinstance(node, ast.Call) and (file.names.callee(node) or "").startswith("torch."):
        return any(isinstance(one, ast.Name) and one.id == name for one in node.args)
    return False


def _shared(file: File, target: ast.expr, write: Write, depth: int) -> Shared | None:
    if depth > 5:
        return None
    target = _strip(target)
    if isinstance(target, ast.Name):
        return _name(file, target, write, depth)
    if isinstance(target, ast.Attribute):
        if target.attr == "grad":
            return None
        if not _is_alias(target):
            return None  # an attribute of what a call just made
        start = root(target)
        if isinstance(start, ast.Attribute):
            return _own_attribute(file, target, start, write)
        if isinstance(start, ast.Name) and write.tensor:
            return _foreign(file, target, start, write, depth)
    if isinstance(target, ast.Subscript):
        if _made_here(function_of(write.node), target, write.node):
            return None
        inner = _shared(file, target.value, write, depth + 1)
        return inner if inner is not None and (write.tensor or inner.kind in ("parameter", "buffer")) else None
    return None


def _strip(target: ast.expr) -> ast.expr:
    """Through views and `.data`, which share the storage of what they are taken from."""
    while True:
        if isinstance(target, ast.Attribute) and target.attr in ("data", "T", "mT", "real", "imag"):
            target = target.value
        elif isinstance(target, ast.Call) and isinstance(target.func, ast.Attribute):
            if target.func.attr not in _VIEWS - _COPIES:
                return target
            target = target.func.value
        else:
            return target


def _own_attribute(file: File, target: ast.Attribute, start: ast.Attribute, write: Write) -> Shared | None:
    """`self.memory`, `self.layer.weight`."""
    cls = class_of(write.node)
    entry = file.attributes(cls).get(start.attr) if cls is not None else None
    shown = ast.unparse(target)
    if _made_here(function_of(write.node), target, write.node):
        return None
    if target is not start:
        if target.attr in ("weight", "bias") or write.tensor:
            return Shared(f"`{shown}`, a tensor of a part of self", "likely", "parameter")
        return None
    if entry is None:
        return Shared(f"`{shown}`, kept on self", "likely", "attribute") if write.tensor else None
    function = function_of(write.node)
    values = [value for _, value in entry.writes]
    here = [value for at, value in entry.writes if function_of(at) is function and _before(at, write.node)]
    if here and not any(_is_alias(value) for value in here):
        return None  # made in this very call: nobody else holds it yet
    if any((file.names.callee(value) or "").startswith("numpy.") for value in values if isinstance(value, ast.Call)):
        return None
    registered = [at for at, _ in entry.writes if isinstance(at, ast.Call) and isinstance(at.func, ast.Attribute)]
    if registered or any(makes_tensor(file, value) for value in values):
        return Shared(f"`{shown}`, kept on self", "certain", "buffer")
    if not write.tensor or any(isinstance(value, (ast.Dict, ast.List, ast.Set, ast.DictComp)) for value in values):
        return None
    return Shared(f"`{shown}`, kept on self", "likely", "attribute")


def _foreign(file: File, target: ast.Attribute, start: ast.Name, write: Write, depth: int) -> Shared | None:
    """`module.weight`, `state.memory`: a tensor of an object that was handed in."""
    function = function_of(write.node)
    names = {arg.arg for arg in parameters(function.args)} if function is not None else set()
    if _made_here(function, target, write.node):
        return None
    if start.id in names and not _latest(function, start.id, write.node):
        if is_state(start.id) or is_state(target.attr) or target.attr in ("weight", "bias"):
            return Shared(f"`{ast.unparse(target)}` of an argument", "likely", "state")
    return None


def _name(file: File, target: ast.Name, write: Write, depth: int) -> Shared | None:
    function = function_of(write.node)
    if function is None:
        return _element(file, target, write)
    element = _element(file, target, write)
    if element is not None:
        return element
    names = {arg.arg: arg for arg in parameters(function.args)}
    binding = _latest(function, target.id, write.node)
    if binding is not None:
        value = binding if isinstance(binding, ast.expr) else None
        if value is None or not _is_alias(value) or _mentions(value, target.id):
            return None
        return _shared(file, value, Write(write.node, value, write.how, True), depth + 1) if write.tensor else None
    if target.id not in names or target.id in ("self", "cls"):
        return None
    return _argument(file, target, names[target.id], function, write)


def _argument(file: File, target: ast.Name, arg: ast.arg, function: Function, write: Write) -> Shared | None:
    note = ast.unparse(arg.annotation) if arg.annotation is not None else ""
    if not write.tensor and "Tensor" not in note:
        return None
    if (
        note
        and "Tensor" not in note
        and any(word in note for word in ("ndarray", "dict", "Dict", "int", "float", "str"))
    ):
        return None
    returned = any(isinstance(n, ast.Return) and _returns(n, target.id) for n in own_nodes(function))
    if is_state(target.id) and (returned or len(target.id) > 1):  # `m` may be a mask or a matrix
        return Shared(f"`{target.id}`, state that was handed in", "likely", "state")
    if returned and write.tensor and write.how in METHODS:
        sure = "possible" if function.name.startswith("_") else "likely"
        return Shared(f"`{target.id}`, an argument that is returned after the write", sure, "argument")
    return None


def _element(file: File, target: ast.Name, write: Write) -> Shared | None:
    """A loop variable over `.parameters()` and its like."""
    for at in ancestors(write.node):
        if isinstance(at, (ast.For, ast.AsyncFor)) and any(
            isinstance(n, ast.Name) and n.id == target.id for n in walk(at.target)
        ):
            if not write.tensor and write.how != "augmented assignment":
                return None
            for node in walk(at.iter):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ELEMENTS:
                    if target.id in _value_names(_zipped(at.iter, node, at.target), node.func.attr):
                        return Shared(f"`{target.id}`, an element of `.{node.func.attr}()`", "certain", "element")
            return None
        if isinstance(at, (ast.FunctionDef, ast.AsyncFunctionDef)):
            break
    return None


def _zipped(iterated: ast.expr, call: ast.AST, target: ast.expr) -> ast.expr:
    """The part of a loop's target that takes what `call` gives: `for a, b in zip(m.parameters(), other)` gives a."""
    above = iterated
    while isinstance(above, ast.Call) and isinstance(target, ast.Tuple) and getattr(above.func, "id", "") == "zip":
        place = next((n for n, arg in enumerate(above.args) if any(m is call for m in walk(arg))), -1)
        if not 0 <= place < len(target.elts):
            break
        above, target = above.args[place], target.elts[place]
    return target


def _value_names(target: ast.expr, method: str) -> set[str]:
    names = {n.id for n in walk(target) if isinstance(n, ast.Name)}
    if method.startswith("named_") and isinstance(target, ast.Tuple) and isinstance(target.elts[0], ast.Name):
        names.discard(target.elts[0].id)
    return names


def _latest(function: Function | None, name: str, node: ast.AST) -> ast.AST | None:
    """What a name was last bound to before a node, in source order: its value, or its binding node."""
    found: ast.AST | None = None
    if function is None:
        return None
    for item in own_nodes(function):
        if not (isinstance(item, ast.Name) and item.id == name and isinstance(item.ctx, ast.Store)):
            continue
        if _before(item, node) and (statement(item) is not statement(node) or isinstance(statement(item), LOOPS)):
            found = _bound_value(item) or item
    return found


def _bound_value(name: ast.Name) -> ast.expr | None:
    above = parent(name)
    if isinstance(above, (ast.Assign, ast.AnnAssign, ast.NamedExpr)):
        return above.value
    if isinstance(above, (ast.Tuple, ast.List)):
        assign = parent(above)
        if isinstance(assign, ast.Assign):
            value = assign.value
            if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(above.elts):
                return value.elts[above.elts.index(name)]
            return value
    if isinstance(above, (ast.For, ast.AsyncFor)):
        return above.iter if not isinstance(above.iter, ast.Call) else None
    return None


def _made_here(function: Function | None, target: ast.expr, node: ast.AST) -> bool:
    """Whether a place (`self.conv`, `self.rank[name]`) was filled with something new earlier in the same function."""
    if function is None:
        return False
    places = set()
    at: ast.expr = target
    while isinstance(at, (ast.Attribute, ast.Subscript)):
        places.add(ast.unparse(at))
        at = at.value
    for item in own_nodes(function):
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Call) and _before(item, node):
            if not _is_alias(item.value) and any(ast.unparse(t) in places for t in item.targets):
                return True
    return False


def _is_alias(value: ast.AST | None) -> bool:
    """Whether an expression shares storage with what it names: names, and attributes, items and views of names."""
    while isinstance(value, ast.expr):
        value = _strip(value)
        if isinstance(value, ast.Name):
            return True
        if not isinstance(value, (ast.Attribute, ast.Subscript)):
            return False
        value = value.value
    return False


def _mentions(value: ast.expr, name: str) -> bool:
    start = root(value)
    return isinstance(start, ast.Name) and start.id == name


def _returns(node: ast.Return, name: str) -> bool:
    values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    return any(isinstance(value, ast.Name) and value.id == name for value in values)


def _before(first: ast.AST, second: ast.AST) -> bool:
    one = (first.lineno, first.col_offset)  # type: ignore[attr-defined]
    return one < (second.lineno, second.col_offset)  # type: ignore[attr-defined]
