"""CS-21: a class is called hybrid."""

from hecate_lint.facts import File
from hecate_lint.rules._words import Defined, WordsRule


class NoHybrid(WordsRule):
    """A class is called hybrid.

    SMELL. `class HybridBlock`. Words are compared, never substrings; names from elsewhere are exempt.

    WHY. Hybrid names neither part nor how they are joined.

    FIX. Name the composition: memory as context, gate or layer.

    TRACE. Catalogue smell CS-21. Off unless selected.
    """

    id = "CS-21"
    name = "no-hybrid"
    why = "hybrid names neither part nor how they are joined"
    mend = "name the composition: memory as context, gate or layer"

    VALID = """
class MemoryAsGate(Composition): ...
# ---
from zoo import HybridBlock
# ---
hybrid = 1
# ---
class Hybridisation: ...
# ---
b = HybridBlock()
"""
    INVALID = """
class HybridBlock(nn.Module): ...  # <-
# ---
class HybridArchitecture: ...  # <-
# ---
class MyHybrid: ...  # <-
# ---
class hybrid_layer: ...  # <-
# ---
class DeepHybridNet(Base): ...  # <-
"""

    def wrong(self, file: File, defined: Defined) -> str:
        return (
            "names neither part nor how they are joined"
            if defined.kind == "class" and "hybrid" in defined.words
            else ""
        )
