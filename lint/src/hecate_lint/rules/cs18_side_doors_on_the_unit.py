"""CS-18 and CS-31: ways into a learning unit beside its declared call."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File
from hecate_lint.index import FUNCTIONS, class_of
from hecate_lint.model import Hit
from hecate_lint.names import dotted_text
from hecate_lint.rule import Rule
from hecate_lint.syntax import decorators

_DOORS = frozenset(
    "update_memory set_memory get_memory set_learning_rate get_optimizer get_hidden_state set_hidden_state get_state"
    " set_state reset_memory read_memory write_memory".split()
)
_INSIDES = frozenset({"memory", "momentum", "retention", "inner_optimizer", "fast_weights"})
_BASES = ("LearningUnit", "MemoryRule", "Unit")


class SideDoorsOnTheUnit(Rule):
    """A learning unit shows or changes its inside beside its declared call.

    SMELL. `get_memory`, `set_learning_rate`, `update_memory` on a class that is a learning unit; a property
    that hands out its memory; a caller that assigns `model.unit.memory`.

    WHY. State that changes outside the call has no place in the contract: causality, replay and checkpoints all
    assume that the call is the only writer.

    FIX. Put what a caller may do into the call: state in, state out. Probes read a copy.

    TRACE. Catalogue smells CS-18 and CS-31.
    """

    id = "CS-18"
    also = ("CS-31",)
    name = "side-doors-on-the-unit"
    group = "core"
    severity = "warn"
    default = False
    words = frozenset({*_DOORS, *_INSIDES, *_BASES})
    why = "the call is the only writer that causality, replay and checkpoints know of"
    mend = "take the state as an argument and return the new one"

    VALID = """
class Unit(LearningUnit):
    def _update(self, s, g): ...
# ---
sd = model.state_dict()
# ---
class Store:
    def get_memory(self):
        return self._memory
# ---
class Unit(LearningUnit):
    def forward(self, x, state):
        self.memory_size = 4
        return x, state
# ---
class Unit(LearningUnit):
    def __init__(self):
        self.memory = Matrix()
"""
    INVALID = """
class Unit(LearningUnit):
    def get_memory(self):  # <-
        return self._memory
# ---
model.unit.memory = torch.zeros(4, 4)  # <-
# ---
class Rule(MemoryRule):
    def set_learning_rate(self, lr):  # <-
        self._lr = lr
# ---
class Base(LearningUnit):
    pass
class Unit(Base):
    @property
    def memory(self):  # <-
        return self._memory
# ---
def warm(model, m):
    model.layer.momentum = m  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        if file.is_test:
            return
        for cls in file.index.all(ast.ClassDef):
            if any(base.rsplit(".", 1)[-1] in _BASES for base in file.bases(cls)):
                for item in cls.body:
                    if isinstance(item, FUNCTIONS) and item.name in _DOORS:
                        yield Hit(item, f"`{cls.name}.{item.name}` is a way in beside the declared call", "likely")
                    elif isinstance(item, FUNCTIONS) and item.name in _INSIDES and "property" in decorators(item):
                        yield Hit(item, f"`{cls.name}.{item.name}` hands out the unit's inside", "likely")
        for node in file.index.word(*_INSIDES):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                text = dotted_text(node)
                if text.count(".") >= 2 and not text.startswith("self.") and class_of(node) is None:
                    yield Hit(node, f"`{text}` is written from outside the unit", "likely")

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.FunctionDef() | m.Attribute()
