"""CS-37: levels are called layers."""

from hecate_lint.facts import File
from hecate_lint.rules._words import Defined, WordsRule


class LevelsNotLayers(WordsRule):
    """Levels are called layers.

    SMELL. `cms_layers = [...]`, `self.freq_layers`. Words are compared, never substrings; names from elsewhere
    are exempt.

    WHY. Layers stand in depth, levels in time; the word hides which one is meant.

    FIX. Call them levels.

    TRACE. Catalogue smell CS-37. Off unless selected.
    """

    id = "CS-37"
    name = "levels-not-layers"
    why = "layers stand in depth, levels in time; the word hides which one is meant"
    mend = "call them levels"

    VALID = """
cms_levels = [Level(1), Level(8)]
# ---
self.layers = nn.ModuleList(Block() for _ in range(4))
# ---
hidden_layers = 4
# ---
x = m.cms_layers
# ---
cms_layer_norm = 1
"""
    INVALID = """
cms_layers = [Level(1), Level(8)]  # <-
# ---
self.freq_layers = nn.ModuleList(Level(f) for f in fs)  # <-
# ---
def f(memory_layers): ...  # <-
# ---
frequencyLayers = 3  # <-
# ---
for period_layers in rows:  # <-
    pass
"""

    def wrong(self, file: File, defined: Defined) -> str:
        words = defined.words
        if defined.kind in ("name", "attribute", "argument") and words[-1:] == ["layers"]:
            if set(words) & {"cms", "freq", "frequency", "level", "period", "memory"}:
                return "calls levels layers"
        return ""
