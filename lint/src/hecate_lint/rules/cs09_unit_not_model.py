"""CS-09: a registered learning unit is called a model."""

import ast

from hecate_lint.facts import File
from hecate_lint.rules._words import Defined, WordsRule, bases
from hecate_lint.syntax import decorators


class UnitNotModel(WordsRule):
    """A registered learning unit is called a model.

    SMELL. A class named `*Model` under `@register_unit`, or derived from LearningUnit. Words are compared,
    never substrings; names from elsewhere are exempt.

    WHY. A model is what one trains once; a unit goes on learning.

    FIX. Call it a unit.

    TRACE. Catalogue smell CS-09. Off unless selected.
    """

    id = "CS-09"
    name = "unit-not-model"
    why = "a model is what one trains once; a unit goes on learning"
    mend = "call it a unit"

    VALID = """
@register_unit("mac")
class MacUnit(LearningUnit): ...
# ---
class Adapter(transformers.PreTrainedModel): ...
# ---
class Model: ...
# ---
@register_rule("m")
class DataModel: ...
# ---
class ModelUnit(LearningUnit): ...
"""
    INVALID = """
@register_unit("mac")
class MacModel(nn.Module): ...  # <-
# ---
class TitansModel(LearningUnit): ...  # <-
# ---
@api.register_unit
class MyModel: ...  # <-
# ---
class Base(LearningUnit): ...
class DeepModel(Base): ...  # <-
# ---
class Mag_Model(core.LearningUnit): ...  # <-
"""

    def wrong(self, file: File, defined: Defined) -> str:
        if defined.kind == "class" and isinstance(defined.node, ast.ClassDef) and defined.words[-1:] == ["model"]:
            if "register_unit" in decorators(defined.node) or "LearningUnit" in bases(file, defined.node):
                return "is a learning unit called a model"
        return ""
