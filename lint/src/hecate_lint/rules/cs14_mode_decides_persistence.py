"""CS-14: a mode decides what persists, or two configs differ in kind."""

import ast
from collections.abc import Iterator

from hecate_lint.facts import File, split_words
from hecate_lint.index import walk
from hecate_lint.model import Hit
from hecate_lint.rules._words import WordsRule
from hecate_lint.syntax import last_word


class ModeDecidesPersistence(WordsRule):
    """A mode decides what persists, or two configs differ in kind.

    SMELL. `if mode == "train":`; a build and a test config with different learning rates or batches. Words are
    compared, never substrings; names from elsewhere are exempt.

    WHY. What persists is decided by levels and periods; a mode hides that decision from the spec.

    FIX. Let the pulse persist, and let configs differ in context or budget only.

    TRACE. Catalogue smells CS-14, CS-15. Off unless selected.
    """

    id = "CS-14"
    also = ("CS-15",)
    name = "mode-decides-persistence"
    why = "what persists is decided by levels and periods; a mode hides that decision from the spec"
    mend = "let the pulse persist, and let configs differ in context or budget only"

    VALID = """
pulse.persist(g)
# ---
build = Config(context=2048)
stream = Config(context=None)
# ---
if mode == "rgb":
    pass
# ---
build = Config(context=1)
test = Config(context=2)
# ---
if kind == "train":
    pass
"""
    INVALID = """
if mode == "train":  # <-
    keep(g)
# ---
build = Config(lr=1e-3, batch=32)
test = Config(lr=0.0, batch=1)  # <-
# ---
if self.mode == Mode.EVAL:  # <-
    drop()
# ---
def f(run_mode):
    if run_mode != "inference":  # <-
        keep()
# ---
build = RunConfig(lr=1)
test = RunConfig(lr=2, context=8)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        """Branches on a mode by name, and pairs of configs."""
        for branch in file.index.all(ast.If):
            test = branch.test
            if isinstance(test, ast.Compare) and "mode" in split_words(last_word(test.left)):
                said = {str(n.value).lower() for n in walk(test) if isinstance(n, ast.Constant)} | {
                    last_word(n).lower() for n in test.comparators
                }
                if said & {"train", "eval", "test", "training", "inference", "build"}:
                    yield Hit(branch, "a mode decides what persists", "likely")
        made: dict[str, tuple[str, set[str]]] = {}
        for assign in file.index.all(ast.Assign):
            call, target = assign.value, assign.targets[0]
            if (
                isinstance(call, ast.Call)
                and isinstance(target, ast.Name)
                and split_words(last_word(call))[-1:] == ["config"]
            ):
                made[target.id] = (last_word(call), {k.arg or "" for k in call.keywords})
                twin = made.get("build") if target.id == "test" else None
                knobs = (made[target.id][1] | (twin[1] if twin else set())) - {"context", "budget", "seed"}
                if twin is not None and twin[0] == made[target.id][0] and knobs:
                    yield Hit(assign, f"build and test differ in {', '.join(sorted(knobs))}", "likely")
