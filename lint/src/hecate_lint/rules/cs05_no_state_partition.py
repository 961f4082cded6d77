"""CS-05: state is split by hand into model and optimizer parts."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File
from hecate_lint.model import Hit
from hecate_lint.rules._words import WordsRule
from hecate_lint.syntax import last_word


class NoStatePartition(WordsRule):
    """State is split by hand into model and optimizer parts.

    SMELL. A checkpoint dict with `model_params` and `optimizer_state`, or a pair of such names. Words are
    compared, never substrings; names from elsewhere are exempt.

    WHY. Inner state belongs to neither half, so it is the part that gets lost.

    FIX. Save the unit's full state.

    TRACE. Catalogue smell CS-05. Off unless selected.
    """

    id = "CS-05"
    name = "no-state-partition"
    why = "inner state belongs to neither half, so it is the part that gets lost"
    mend = "save the unit's full state"

    VALID = """
torch.save(unit.full_state(), p)
# ---
opt_state = foreign_optimizer.state_dict()
# ---
row = {"model": name, "score": 1}
# ---
a, b = split(unit)
# ---
cfg = {"optimizer": "sgd"}
"""
    INVALID = """
torch.save({"model_params": m.state_dict(), "optimizer_state": o.state_dict()}, p)  # <-
# ---
model_params, optimizer_state = split(unit)  # <-
# ---
state = {"model": m, "optimizer": o}  # <-
# ---
def save(m, o):
    return {"model_state_dict": m, "optimizer_state_dict": o, "step": 1}  # <-
# ---
(model_state, optimizer_state) = load(p)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Dicts and tuples that name both halves."""
        for node in file.index.all(ast.Dict):
            keys = {str(key.value) for key in node.keys if isinstance(key, ast.Constant)}
            if _both(keys):
                yield Hit(node, "state is split into model and optimizer by hand", "likely")
        for pair in file.index.all(ast.Tuple):
            if isinstance(pair.ctx, ast.Store) and _both({last_word(item) for item in pair.elts}):
                yield Hit(pair, "state is split into model and optimizer by hand", "likely")


def _both(names: set[str]) -> bool:
    model = names & {"model_params", "model_state", "model_state_dict", "model"}
    return bool(model) and bool(names & {"optimizer_state", "optimizer_state_dict", "optimizer"}) and len(names) <= 4
