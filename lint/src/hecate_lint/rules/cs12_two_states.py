"""CS-12: a unit has more states than receiving and processing."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File, split_words
from hecate_lint.model import Hit
from hecate_lint.rules._words import WordsRule, bases


class TwoStates(WordsRule):
    """A unit has more states than receiving and processing.

    SMELL. An Enum named `*State` with further members. Words are compared, never substrings; names from
    elsewhere are exempt.

    WHY. Each further state is a mode, and behaviour that depends on modes cannot be tested in one of them.

    FIX. Keep receiving and processing.

    TRACE. Catalogue smell CS-12. Off unless selected.
    """

    id = "CS-12"
    name = "two-states"
    why = "each further state is a mode, and behaviour that depends on modes cannot be tested in one of them"
    mend = "keep receiving and processing"

    VALID = """
class UnitState(enum.Enum):
    RECEIVING_INPUT = 1
    PROCESSING = 2
# ---
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
    GREEN = 3
# ---
class State:
    SAVING = 1
# ---
State = enum.Enum("State", "RECEIVING PROCESSING")
# ---
class StateKind(enum.Enum):
    A = 1
"""
    INVALID = """
class UnitState(enum.Enum):
    RECEIVING = 1
    PROCESSING = 2
    SAVING = 3  # <-
# ---
State = enum.Enum("State", "INIT TRAIN EVAL")  # <-
# ---
import enum as e
class ModelState(e.IntEnum):
    IDLE = 0  # <-
# ---
from enum import Enum
UnitState = Enum("UnitState", "RECEIVING PROCESSING DONE")  # <-
# ---
from enum import Enum
class RuleState(Enum):
    PROCESSING = 1
    FROZEN = 2  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Enums of states, written as classes or calls."""
        for cls in file.index.all(ast.ClassDef):
            if split_words(cls.name)[-1:] == ["state"] and bases(file, cls) & {"Enum", "IntEnum", "StrEnum"}:
                for item in cls.body:
                    if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                        words = set(split_words(item.targets[0].id))
                        if not words & {"receiving", "processing"}:
                            yield Hit(item, f"`{item.targets[0].id}` is a third state", "likely")
                            break
        for call in file.names.calls("enum.Enum", "enum.IntEnum"):
            texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if len(texts) == 2 and split_words(texts[0])[-1:] == ["state"]:
                if not set(split_words(texts[1].replace(" ", "_").replace(",", "_"))) <= {
                    "receiving",
                    "processing",
                    "input",
                }:
                    yield Hit(call, "more states than receiving and processing", "likely")
