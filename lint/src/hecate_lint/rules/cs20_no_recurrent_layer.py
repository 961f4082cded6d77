"""CS-20: an inner loop is called a recurrent layer."""

from hecate_lint.facts import File
from hecate_lint.rules._words import Defined, WordsRule


class NoRecurrentLayer(WordsRule):
    """An inner loop is called a recurrent layer.

    SMELL. `class RecurrentLayer`, `class DeltaRNNCell`. Words are compared, never substrings; names from
    elsewhere are exempt.

    WHY. A recurrent layer carries activations; a rule carries weights that learn.

    FIX. Call it a memory rule and its step.

    TRACE. Catalogue smell CS-20. Off unless selected.
    """

    id = "CS-20"
    name = "no-recurrent-layer"
    why = "a recurrent layer carries activations; a rule carries weights that learn"
    mend = "call it a memory rule and its step"

    VALID = """
class DeltaRule(MemoryRule): ...
# ---
cell = nn.GRUCell(4, 4)
# ---
class Recurrence: ...
# ---
rnn = nn.RNN(2, 2)
# ---
class LayerRecurrent: ...
"""
    INVALID = """
class RecurrentLayer(nn.Module): ...  # <-
# ---
class DeltaRNNCell(nn.Module): ...  # <-
# ---
class RNN: ...  # <-
# ---
class MyRecurrentLayer: ...  # <-
# ---
class rnn_block: ...  # <-
"""

    def wrong(self, file: File, defined: Defined) -> str:
        if defined.kind == "class":
            joined = "".join(defined.words)
            if "recurrentlayer" in joined or "rnn" in defined.words or "RNN" in defined.text:
                return "calls an inner loop a recurrent layer"
        return ""
