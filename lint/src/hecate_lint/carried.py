"""Which values persist between steps: arguments that come back as results, attributes, names a loop carries."""

import ast

from hecate_lint.facts import File, locals_of, split_words
from hecate_lint.index import LOOPS, ancestors, class_of, function_of, own_nodes, parent, statement, walk
from hecate_lint.vocabulary import INPUT, STATE

_LAYERS = frozenset("layer layers block blocks module modules stage stages head heads net nets conv convs".split())


def root(node: ast.AST | None) -> ast.AST | None:
    """The name, or attribute of self, that a chain of views, subscripts and attributes starts at."""
    while node is not None:
        if isinstance(node, ast.Name):
            return node
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return node
            node = node.value
        elif isinstance(node, (ast.Subscript, ast.Starred)):
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            node = node.func.value
        else:
            return None
    return None


def carrier(file: File, operand: ast.expr | None, product: ast.AST) -> str:
    """How an operand persists between steps: `loop`, `attribute`, `state` (argument); empty when it does not."""
    start = root(operand)
    if isinstance(start, ast.Attribute):
        return "attribute" if _kept_attribute(file, start, product) else ""
    if not isinstance(start, ast.Name):
        return ""
    if _loop_carried(start.id, product):
        return "loop"
    table = locals_of(product)
    if start.id in table.parameters and start.id not in ("self", "cls"):
        return _argument(start.id, product)
    value = table.value(start.id)
    if value is not None and value is not operand:
        origin = root(value)
        if isinstance(origin, ast.Attribute) and _kept_attribute(file, origin, product):
            return "attribute"
        if isinstance(origin, ast.Name) and origin.id in table.parameters and is_state(origin.id):
            return _argument(origin.id, product)
    return "state" if is_state(start.id) and len(start.id) > 2 and start.id not in table.values else ""


def is_state(name: str) -> bool:
    """Whether an identifier says that it holds state."""
    words = split_words(name)
    if is_input(name) or {"dict", "dicts"} & set(words):
        return False
    return any(word in STATE and (len(word) > 2 or len(words) == 1) for word in words)


def is_input(name: str) -> bool:
    """Whether an identifier says that it holds what flows through layers; `hidden_state` does in transformers."""
    words = set(split_words(name))
    return (
        name in INPUT or bool({"initial", "init"} & words) or ("hidden" in words and bool({"state", "states"} & words))
    )


def _argument(name: str, product: ast.AST) -> str:
    function = function_of(product)
    if function is None:
        return ""
    results = [n for n in own_nodes(function) if isinstance(n, (ast.Return, ast.Yield)) and n.value is not None]
    if not results:
        return ""
    return "state" if is_state(name) else "" if is_input(name) else "argument"


def _kept_attribute(file: File, attribute: ast.Attribute, product: ast.AST) -> bool:
    """Whether an attribute of self is written outside the constructor by what the product makes."""
    cls = class_of(product)
    entry = file.attributes(cls).get(attribute.attr) if cls is not None else None
    if entry is None:
        return False
    for target, _ in entry.writes:
        function = function_of(target)
        if function is not None and function.name not in ("__init__", "reset_parameters"):
            return True
    in_place = (parent(read) for read in entry.reads)
    return any(isinstance(p, ast.Attribute) and p.attr in ("copy_", "lerp_", "mul_", "add_") for p in in_place)


def comes_back(operand: ast.expr | None, product: ast.AST) -> bool:
    """Whether what the product makes is stored where its operand came from: `self.s = p * self.s + u`."""
    start = root(operand)
    if isinstance(start, ast.Name):
        start = root(locals_of(product).value(start.id))
    held = statement(product)
    function = function_of(product)
    if not isinstance(start, ast.Attribute) or held is None or function is None:
        return False
    made = {n.id for t in getattr(held, "targets", ()) for n in walk(t) if isinstance(n, ast.Name)}
    for node in own_nodes(function):
        if isinstance(node, (ast.Assign, ast.AugAssign)) and _stores(node, start.attr):
            if node is held or any(isinstance(n, ast.Name) and n.id in made for n in walk(node.value)):
                return True
    return isinstance(held, ast.Expr) and _in_place(held.value, start.attr)


def _stores(node: ast.Assign | ast.AugAssign, attribute: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    starts = [root(item) for target in targets for item in getattr(target, "elts", [target])]
    return any(isinstance(start, ast.Attribute) and start.attr == attribute for start in starts)


def _in_place(value: ast.expr, attribute: str) -> bool:
    """`self.s.copy_(p * self.s + u)` and its like."""
    start = root(value)
    word = value.func.attr if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) else ""
    return isinstance(start, ast.Attribute) and start.attr == attribute and word.endswith("_")


def _loop_carried(name: str, product: ast.AST) -> bool:
    """Whether a loop that is no loop over layers assigns the name from the product."""
    held: ast.AST = product
    while not isinstance(held, ast.stmt):
        above = parent(held)
        if above is None:
            return False
        held = above
    for loop in ancestors(held):
        if isinstance(loop, LOOPS):
            if over_layers(loop):
                return False
            return _assigns(held, name) or _passed_on(loop, held, name)
    return False


def over_layers(loop: ast.AST) -> bool:
    """Whether a loop runs over modules: by the names it iterates, or because it calls its variable."""
    if not isinstance(loop, (ast.For, ast.AsyncFor)):
        return False
    for node in walk(loop.iter):
        word = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        if any(part in _LAYERS for part in split_words(word)):
            return True
    variables = {n.id for n in walk(loop.target) if isinstance(n, ast.Name)}
    for node in walk(loop):
        if isinstance(node, ast.Call):
            func = node.func
            if isinstance(func, ast.Name) and func.id in variables:
                return True
            if isinstance(func, ast.Subscript) and any(getattr(n, "id", "") in variables for n in walk(func.slice)):
                return True
    return False


def _assigns(statement: ast.stmt, name: str) -> bool:
    if isinstance(statement, ast.Assign):
        return any(isinstance(n, ast.Name) and n.id == name for t in statement.targets for n in walk(t))
    if isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        return isinstance(statement.target, ast.Name) and statement.target.id == name
    return False


def _passed_on(loop: ast.AST, held: ast.stmt, name: str) -> bool:
    """`new = p * s + u` and later in the loop `s = new`."""
    made = {n.id for t in getattr(held, "targets", []) for n in walk(t) if isinstance(n, ast.Name)}
    for node in walk(loop):
        if isinstance(node, ast.Assign) and node is not held and _assigns(node, name):
            start = root(node.value)
            if isinstance(start, ast.Name) and start.id in made:
                return True
    return False
