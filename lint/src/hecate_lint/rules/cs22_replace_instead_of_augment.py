"""CS-22: a layer replaced by a memory block that no longer contains it."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, constant, locals_of, split_words
from hecate_lint.index import function_of, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, scope_nodes

_LISTS = frozenset({"layers", "blocks", "h", "layer"})
_PARTS = frozenset({"mlp", "attn", "attention", "self_attn", "ffn"})
_MEMORY = frozenset("cms memory titans hebbian delta unit level levels gate gated fast hope rule learning".split())
_DECLARED = ("quant", "lora", "adapter", "fuse", "convert", "patch", "linear", "fp8", "swap")


class ReplaceInsteadOfAugment(Rule):
    """A memory block is put in the place of a layer without the layer inside.

    SMELL. `model.layers[i] = CMSBlock(...)` or `setattr(model, "mlp", GatedMLP(...))` whose right side does not
    contain the layer that stood there.

    WHY. What the layer had learned is thrown away: a comparison then measures the loss of a layer, not the gain
    of a memory.

    FIX. Wrap: `model.layers[i] = Gate(model.layers[i], ...)`.

    TRACE. Catalogue smell CS-22.
    """

    id = "CS-22"
    name = "replace-instead-of-augment"
    group = "core"
    severity = "warn"
    words = _LISTS | {"setattr", *_PARTS}
    why = "the layer that stood there, and what it had learned, is gone, so the comparison measures that loss"
    mend = "wrap it: model.layers[i] = Block(model.layers[i], ...)"

    VALID = """
model.layers[3] = Gate(model.layers[3], freq=8)
# ---
old = model.mlp
model.mlp = Gate(inner=old)
# ---
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers[0] = MemoryBlock(4)
# ---
model.layers[i] = LoraLinear(cfg)
# ---
for i, layer in enumerate(model.layers):
    model.layers[i] = MemoryBlock(layer, cfg)
# ---
def quantize_model(model):
    model.blocks[0] = GatedInt8(cfg)
"""
    INVALID = """
model.layers[3] = CMSBlock(cfg)  # <-
# ---
setattr(model, "mlp", GatedMLP(cfg))  # <-
# ---
for i in range(4):
    model.blocks[i] = MemoryBlock(dim)  # <-
# ---
model.attn = TitansAttention(cfg)  # <-
# ---
block = DeltaRule(dim)
model.layers[0] = block  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for assign in file.index.all(ast.Assign):
            for target in assign.targets:
                if self._is_place(target):
                    yield from self._judge(file, assign, target, assign.value)
        for call in file.index.all(ast.Call):
            if last_word(call) == "setattr" and len(call.args) == 3 and constant(call.args[1]) in _PARTS:
                yield from self._judge(file, call, call.args[0], call.args[2])

    def _is_place(self, target: ast.expr) -> bool:
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Attribute):
            return target.value.attr in _LISTS
        return (
            isinstance(target, ast.Attribute)
            and target.attr in _PARTS
            and last_word(target.value) in ("model", "net", "block")
        )

    def _judge(self, file: File, node: ast.AST, target: ast.expr, value: ast.expr) -> Iterator[Hit]:
        if isinstance(value, ast.Name):
            value = locals_of(node).value(value.id) or value
        if not isinstance(value, ast.Call) or not set(split_words(last_word(value))) & _MEMORY:
            return
        function = function_of(node)
        if function is not None and (function.name == "__init__" or any(w in function.name.lower() for w in _DECLARED)):
            return
        if any(word in last_word(value).lower() for word in _DECLARED) or _contains_old(node, target, value):
            return
        place = ast.unparse(target)
        yield Hit(node, f"`{last_word(value)}` takes the place of `{place}` and does not contain it", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Assign() | m.Call()


def _contains_old(node: ast.AST, target: ast.expr, value: ast.Call) -> bool:
    """Whether the new block is given the old one: the place itself, a local that holds it, or a loop variable."""
    place = ast.unparse(target)
    holder = ast.unparse(target.value) if isinstance(target, (ast.Subscript, ast.Attribute)) else place
    old = {place}
    for at in scope_nodes(node):
        if (
            isinstance(at, ast.Assign)
            and ast.unparse(at.value) in (place, holder)
            and isinstance(at.targets[0], ast.Name)
        ):
            old.add(at.targets[0].id)
        if isinstance(at, ast.For) and holder in ast.unparse(at.iter):
            old |= {n.id for n in walk(at.target) if isinstance(n, ast.Name)}
    parts = [
        ast.unparse(n)
        for arg in [*value.args, *(k.value for k in value.keywords)]
        for n in walk(arg)
        if isinstance(n, ast.expr)
    ]
    index = {n.id for n in walk(target) if isinstance(n, ast.Name)}
    return any(part in old - index for part in parts)
