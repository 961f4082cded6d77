"""CS-01: a class is called a memory module or memory bank."""

from hecate_lint.facts import File
from hecate_lint.rules._words import Defined, WordsRule


class NoMemoryModule(WordsRule):
    """A class is called a memory module or memory bank.

    SMELL. `class MemoryModule`, `class KVMemoryBank`. Words are compared, never substrings; names from
    elsewhere are exempt.

    WHY. A module is something that another part calls; here the whole unit is what learns.

    FIX. Call it a learning unit.

    TRACE. Catalogue smell CS-01. Off unless selected.
    """

    id = "CS-01"
    name = "no-memory-module"
    why = "a module is something that another part calls; here the whole unit is what learns"
    mend = "call it a learning unit"

    VALID = """
class LearningUnit(nn.Module): ...
# ---
from other import MemoryModule
m = MemoryModule()
# ---
class MemoryRule: ...
# ---
memory_module = 1
# ---
class ModuleMemory: ...
"""
    INVALID = """
class MemoryModule(nn.Module): ...  # <-
# ---
class KVMemoryBank: ...  # <-
# ---
class DeepMemoryModule(nn.Module): ...  # <-
# ---
def build():
    class MemoryBank: ...  # <-
    return MemoryBank
# ---
class Memory_Bank: ...  # <-
"""

    def wrong(self, file: File, defined: Defined) -> str:
        if defined.kind == "class" and (
            "memorymodule" in "".join(defined.words) or "memorybank" in "".join(defined.words)
        ):
            return "names a part; what learns is a learning unit"
        return ""
