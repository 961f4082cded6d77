"""CS-02: a memory rule stores and retrieves."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File
from hecate_lint.index import parent
from hecate_lint.model import Hit
from hecate_lint.rules._words import Defined, WordsRule, owner_bases
from hecate_lint.syntax import last_word


class NoStoreRetrieve(WordsRule):
    """A memory rule stores and retrieves.

    SMELL. Methods `store*` and `retrieve*` on a memory rule; `memory_bank.insert`. Words are compared, never
    substrings; names from elsewhere are exempt.

    WHY. A memory rule learns: what it writes is an update, what it reads is a prediction.

    FIX. Call them write and read.

    TRACE. Catalogue smells CS-02, CS-04. Off unless selected.
    """

    id = "CS-02"
    also = ("CS-04",)
    name = "no-store-retrieve"
    why = "a memory rule learns: what it writes is an update, what it reads is a prediction"
    mend = "call them write and read"

    VALID = """
class Rule(MemoryRule):
    def write(self, k, v): ...
    def read(self, q): ...
# ---
path = store.retrieve(key)
# ---
class Disk:
    def store(self, k): ...
# ---
class Rule(MemoryRule):
    def restore(self, s): ...
# ---
rows.insert(0, x)
"""
    INVALID = """
class Rule(MemoryRule):
    def store(self, k, v): ...  # <-
# ---
class Rule(MemoryRule):
    def retrieve_memory(self, q): ...  # <-
# ---
memory_bank.insert(k, v)  # <-
# ---
class Base(MemoryRule): ...
class Rule(Base):
    def storeValue(self, v): ...  # <-
# ---
def f(self):
    return self.memory_bank.lookup(3)  # <-
"""

    def wrong(self, file: File, defined: Defined) -> str:
        if defined.kind == "method" and defined.words[:1] in (["store"], ["retrieve"]):
            if owner_bases(file, defined.node) & {"MemoryRule", "ComposedRule", "LearningUnit"}:
                return "speaks of a store; a rule writes and reads"
        return ""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Method names, and inserts into a memory bank."""
        yield from super().nominate(file)
        for node in file.index.word("insert", "lookup"):
            call = parent(node)
            if (
                isinstance(node, ast.Attribute)
                and isinstance(call, ast.Call)
                and last_word(node.value).endswith("memory_bank")
            ):
                yield Hit(call, "a memory bank is filled; a rule writes", "likely")
